/**
 * Rules of training: those that a caller gives, and those of the methods of trained adapters.
 *
 * @module
 */
import type { PeftConfig } from "../methods/config.ts";
import type { MethodTraining, StepRule } from "../methods/training-rule.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import { add } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { leafName, trainableLeaves } from "./leaves.ts";
import { siteAt } from "../model/model-graph.ts";
import { adaptedPaths, leavesAt, partsOfKind, withContents } from "./parts.ts";
import { type AnyModel, type PeftModel, pristineBase, takingPart } from "./peft-model.ts";
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
    const sites = adaptedPaths(adapter).map((path) => siteAt(base, path));
    const rule = adapter.method.training?.({
      config: adapter.config,
      sites,
      nameOf: (leaf, site) => leafName(position, site?.path ?? "shared", leaf),
    });
    if (!rule) return [];
    const { finish, ...steps } = rule;
    return [{
      ...steps,
      name: `a${position}`,
      ...(finish && {
        finish: (trained: AnyModel, state: Readonly<Record<string, Tensor>>) =>
          finished(trained as PeftModel, adapter.name, { finish, state }),
      }),
    }];
  });
}

/** What the methods of trained adapters add to the loss; `undefined` where they add nothing. */
export function tracePenalty(model: AnyModel, pass: ForwardPass): Value | undefined {
  const penalties = methodRules(model).flatMap(({ penalty }) => penalty ?? []);
  if (penalties.length + pass.penalties.length === 0) return undefined;
  const leaves = new Map(
    [...trainableLeaves(model)].map(([name, tensor]) => [name, pass.leaf(name, tensor)]),
  );
  const trace = { graph: pass.graph, leaves, state: {}, inputs: {} };
  return [...pass.penalties, ...penalties.map((penalty) => penalty(trace))].reduce((a, b) =>
    add(a, b)
  );
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
