/**
 * Rules of training: those that a caller gives, and those of the methods of trained adapters.
 *
 * @module
 */
import type { PeftConfig } from "../methods/config.ts";
import type { MethodTraining, RuleTrace, StepRule } from "../methods/training-rule.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import { add } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { leafName, trainableLeaves } from "./leaves.ts";
import { siteAt } from "../model/model-graph.ts";
import { adaptedPaths, leavesAt, leavesOf, mapLeaves, partsOfKind, withContents } from "./parts.ts";
import {
  type Adapter,
  type AnyModel,
  type PeftModel,
  pristineBase,
  takingPart,
} from "./peft-model.ts";
import { withAdapter } from "./select.ts";

/** A rule that steps follow beside objective and optimizer. */
export interface TrainingRule extends StepRule {
  /** Unique in a run: its inputs and state are `rule.<name>.<their name>`, in checkpoints too. */
  readonly name: string;
  /** The model that training gives, made of the trained one on the host; its config may change. */
  finish?(model: AnyModel, state: Readonly<Record<string, Tensor>>): AnyModel | Promise<AnyModel>;
}

/** What the methods of the adapters that a model trains add to training. */
export function methodRules(model: AnyModel): readonly TrainingRule[] {
  if (model.type !== "peft") return [];
  const base = pristineBase(model);
  return takingPart(model).flatMap((adapter, position) => {
    if (!model.trainable.includes(adapter.name)) return [];
    const carried = stateRule(adapter, position);
    const sites = adaptedPaths(adapter).map((path) => siteAt(base, path));
    const rule = adapter.method.training?.({
      config: adapter.config,
      sites,
      nameOf: (leaf, site) => leafName(position, site?.path ?? "shared", leaf),
      leavesAt: (site) => leavesAt(adapter, site.path)!,
    });
    if (!rule) return carried;
    const { finish, ...steps } = rule;
    return [...carried, {
      ...steps,
      name: `a${position}`,
      ...(finish && {
        finish: (trained: AnyModel, state: Readonly<Record<string, Tensor>>) =>
          finished(trained as PeftModel, adapter.name, { finish, state }),
      }),
    }];
  });
}

/** Carries an adapter's leaves that are state from step to step. */
function stateRule(adapter: Adapter, position: number): readonly TrainingRule[] {
  const held = leavesOf(adapter).filter(({ leaf }) => leaf.kind === "state");
  if (held.length === 0) return [];
  const state = held.map(({ id, name, leaf }) => [leafName(position, id, name), leaf.tensor!]);
  return [{
    name: `a${position}.state`,
    carries: true,
    state: Object.fromEntries(state),
    finish(trained, state) {
      const now = (trained as PeftModel).adapters.get(adapter.name)!;
      const parts = mapLeaves(
        now.parts,
        (old, { id, name }) => state[leafName(position, id, name)] ?? old,
      );
      return withAdapter(trained as PeftModel, { ...now, parts });
    },
  }];
}

/** What the methods of trained adapters add to the loss; `undefined` where they add nothing. */
export function tracePenalty(model: AnyModel, pass: ForwardPass): Value | undefined {
  const penalties = methodRules(model).flatMap(({ penalty }) => penalty ?? []);
  if (penalties.length + pass.penalties.length === 0) return undefined;
  const leaves = new Map(
    [...trainableLeaves(model)].map(([name, tensor]) => [name, pass.leaf(name, tensor)]),
  );
  const fixed = fixedLeaves(model, pass);
  const trace = { graph: pass.graph, leaves, fixed, state: {}, inputs: {} };
  return [...pass.penalties, ...penalties.map((penalty) => penalty(trace))].reduce((a, b) =>
    add(a, b)
  );
}

/** The fixed leaves of the adapters that take part as values of a pass, by their names. */
export function fixedLeaves(model: AnyModel, pass: ForwardPass): RuleTrace["fixed"] {
  const active = model.type === "peft" ? takingPart(model) : [];
  const fixed = new Map(
    active.flatMap((adapter, position) =>
      leavesOf(adapter).flatMap(({ id, name, leaf: { kind, tensor } }) =>
        kind === "fixed" && tensor ? [[leafName(position, id, name), tensor] as const] : []
      )
    ),
  );
  return (name) => pass.leaf(name, fixed.get(name)!);
}

async function finished(
  model: PeftModel,
  name: string,
  by: {
    readonly finish: NonNullable<MethodTraining<PeftConfig>["finish"]>;
    readonly state: Readonly<Record<string, Tensor>>;
  },
): Promise<PeftModel> {
  const adapter = model.adapters.get(name)!;
  const held = adaptedPaths(adapter).map((path) => [path, leavesAt(adapter, path)!] as const);
  const { config, sites } = await by.finish(
    { config: adapter.config, sites: new Map(held) },
    by.state,
  );
  const parts = new Map(adapter.parts);
  for (const part of partsOfKind(adapter, "site")) {
    const { path } = part.place;
    parts.set(path, withContents(part, sites.get(path)!));
  }
  return withAdapter(model, { ...adapter, config, parts });
}
