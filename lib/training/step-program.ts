/**
 * The programs of a training run: one that takes a whole optimizer step, one that only adds
 * gradients up, one that evaluates.
 *
 * @module
 */
import { type BatchShape, labelValues, traceShape } from "../adapters/batch.ts";
import type { AnyModel } from "../adapters/peft-model.ts";
import { type TracedModel, traceModel } from "../adapters/trace-model.ts";
import { fixedLeaves, type TrainingRule } from "../adapters/training-rule.ts";
import type { RuleTrace } from "../methods/training-rule.ts";
import { UnsupportedError } from "../errors.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import { add, div, equal, min, mul, sqrt } from "../ops/elementwise.ts";
import { constant } from "../ops/constant.ts";
import { input } from "../ops/input.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import type { Graph, Value } from "../ops/value.ts";
import { checkpoint, expensiveValues } from "../program/checkpoint.ts";
import { gradients } from "../program/grad.ts";
import { programOf } from "../program/program.ts";
import type { Objective, Values } from "../tasks/objective.ts";
import type { Optimizer } from "./optimizer.ts";
import { eachGroup, joinLeaves, leafOf, leavesOf, type Packing, type Vectors } from "./packing.ts";
import { ruleName, stateName } from "./state.ts";

/** What all programs of a run share. */
export interface StepOptions {
  /** What losses there are. */
  readonly objective: Objective;
  /** Traces what metrics are made of, in evaluations. */
  readonly measured?: (outputs: Values, labels: Values) => Values;
  /** Where each leaf lies in the vectors of parameters. */
  readonly packing: Packing;
  /** What updates them; needed for steps of the kind `update`. */
  readonly optimizer?: Optimizer;
  /** What steps follow beside objective and optimizer. */
  readonly rules?: readonly TrainingRule[];
  /** Whether dropout is on. */
  readonly dropout?: boolean;
  /** Gradients are scaled down to this norm where theirs is larger; not at all without it. */
  readonly maxGradientNorm?: number;
  /** Computes activations again in the backward pass, layer by layer. */
  readonly gradientCheckpointing?: boolean;
  /** Whether `gradients` are those that rules make of them. */
  readonly ofStep?: boolean;
  /** Whether an `update` also takes in what `accumulate` has added up. */
  readonly accumulates?: boolean;
}

/** What a program is made for. */
export interface StepShape {
  /** A batch, of which the sizes count. */
  readonly prepared: BatchShape;
  /**
   * `update` ends in an optimizer step, `accumulate` adds to the gradient only, `evaluate` gives
   * the loss and the outputs that metrics are made of, `gradients` gives each leaf's gradient as an output.
   */
  readonly kind: "update" | "accumulate" | "evaluate" | "gradients";
}

/**
 * Traces one of the programs. All take the objective's labels and `lossScale` [1], by which the sum
 * of the losses is multiplied, and read the parameters' state; with a model or a rule that has a penalty
 * all but `evaluate` take `penaltyScale` [1], and an `update` the optimizer's rates [1], `rate.<name>`
 * (with `.<group>` behind it where there are several). They give `loss` (scaled), and an update
 * `gradientNorm` before clipping.
 */
export function traceStep(model: AnyModel, options: StepOptions & StepShape): TracedModel {
  const { prepared, objective, packing, kind, rules = [] } = options;
  const carriers = rules.filter(({ carries }) => carries);
  let forward: ForwardPass | undefined;
  let updates: Readonly<Record<string, string>> = {};
  const traced = traceModel(model, {
    ...traceShape(prepared),
    dropout: options.dropout === true && kind !== "evaluate",
    trained: (graph, name) => {
      const leaf = packing.leaves.get(name);
      return leaf
        ? leafOf(parametersOf(graph, { packing, rules }).get(leaf.group)!, leaf)
        : carriers.map((rule) => traceOf(graph, rule).state[name]).find((state) => state);
    },
    outputs: (pass, values) => {
      forward = pass;
      const { graph } = pass;
      checkOutputs(objective, values);
      const labels = labelValues(graph, prepared);
      const sum = mul(objective.loss(values, labels), scalar(graph, "lossScale"));
      if (kind === "evaluate") return { loss: sum, ...options.measured?.(values, labels) };
      const leaves = leavesOf(packing, parametersOf(graph, { packing, rules }));
      const fixed = fixedLeaves(model, pass);
      const traces = rules.map((rule) => ({ ...traceOf(graph, rule), leaves, fixed }));
      const penalties = rules.flatMap(({ penalty }, i) => penalty?.(traces[i]) ?? []);
      const loss = [...pass.penalties, ...penalties].reduce(
        (loss, penalty) => add(loss, mul(penalty, scalar(graph, "penaltyScale"))),
        sum,
      );
      const found = gradients(loss, [...leaves.values()]);
      const parts = new Map([...leaves.keys()].map((name, i) => [name, found[i]]));
      if (kind === "gradients") {
        const given = options.ofStep ? ruledGradients(parts, { rules, traces }) : parts;
        return { loss, ...named(given, (name) => `grad.${name}`) };
      }
      const step = kind === "accumulate"
        ? { state: accumulate(graph, packing, joinLeaves(packing, parts)) }
        : traceUpdate(graph, { ...options, traces, gradients: joinLeaves(packing, parts) });
      const state = new Map([...step.state, ...carried(pass, carriers)]);
      updates = Object.fromEntries([...state.keys()].map((name) => [name, `next.${name}`]));
      return {
        loss,
        ..."norm" in step && { gradientNorm: step.norm },
        ...named(state, (name) => `next.${name}`),
      };
    },
  });
  const program = programOf(Object.fromEntries(traced.program.outputs), updates);
  if (kind === "evaluate") return { ...traced, program };
  // What costs next to nothing to compute again is never kept; with gradient checkpointing, only
  // what enters a layer is.
  const keep = options.gradientCheckpointing
    ? forward!.boundaries
    : [...forward!.boundaries, ...expensiveValues(program)];
  return { ...traced, program: checkpoint(program, { of: "loss", keep }) };
}

/** What a pass makes of the leaves that are state. */
function carried(
  pass: ForwardPass,
  carriers: readonly TrainingRule[],
): readonly (readonly [string, Value])[] {
  return carriers.flatMap((rule) =>
    Object.entries(traceOf(pass.graph, rule).state).flatMap(([name, old]) => {
      const next = pass.updates.get(name);
      // Programs read what they write.
      return next ? [[ruleName(rule, name), select(equal(old, old), next, old)] as const] : [];
    })
  );
}

function checkOutputs({ name, outputs }: Objective, found: Values): void {
  const missing = outputs.find((output) => !(output in found));
  if (missing === undefined) return;
  throw new UnsupportedError(
    "OBJECTIVE",
    `The objective "${name}" looks at ${missing}, and the model gives ${
      Object.keys(found).join(", ")
    } only. Load the model with another taskType, or give another objective.`,
    { objective: name, missing },
  );
}

/**
 * One step of the optimizer, and what rules add to it.
 *
 * @returns New values of state by its name on the device, and the gradient's norm.
 */
export function traceUpdate(
  graph: Graph,
  options: Omit<StepOptions, "objective"> & {
    readonly gradients: Vectors<Value>;
    readonly traces?: readonly RuleTrace[];
  },
): { readonly state: ReadonlyMap<string, Value>; readonly norm: Value } {
  const { packing, rules = [], traces = [], maxGradientNorm } = options;
  const optimizer = options.optimizer!, { frozen } = optimizer;
  let gradients = options.gradients;
  const state = new Map<string, Value>();
  if (options.accumulates) {
    for (const [name, total] of accumulate(graph, packing, gradients)) state.set(name, total);
    gradients = eachGroup(packing, (group) => state.get(stateName("gradient", group))!);
    for (const [group, size] of packing.groups) {
      state.set(stateName("gradient", group), constant(graph, 0, { shape: [size] }));
    }
  }
  if (rules.some(({ gradient }) => gradient)) {
    const changed = ruledGradients(leavesOf(packing, gradients), { rules, traces });
    gradients = joinLeaves(packing, changed);
  }
  const squares = [...gradients].flatMap(([group, g]) => group === frozen ? [] : sum(mul(g, g)));
  const norm = sqrt(squares.reduce((total, square) => add(total, square)));
  if (maxGradientNorm !== undefined) {
    // As torch's clip_grad_norm_, whose small term keeps the division defined.
    const factor = min(div(maxGradientNorm, add(norm, 1e-6)), 1);
    gradients = eachGroup(packing, (group) => mul(gradients.get(group)!, factor));
  }
  const parameters = parametersOf(graph, { packing, rules });
  if (optimizer.precondition) {
    const named = leavesOf(packing, gradients);
    const leaves = leavesOf(packing, parameters);
    const changed = optimizer.precondition({ leaves, gradients: named });
    gradients = joinLeaves(packing, new Map([...named, ...changed]));
  }
  for (const [group, size] of packing.groups) {
    if (group === frozen) continue;
    const own = (part: string, shape: readonly number[]) =>
      input(graph, stateName(part, group), { shape, dtype: "f32", role: "state" });
    const slots = Object.entries(optimizer.init(size));
    const next = optimizer.update({
      parameters: parameters.get(group)!,
      gradient: gradients.get(group)!,
      state: Object.fromEntries(slots.map(([part, shape]) => [part, own(part, shape)])),
      rate: (name) => input(graph, rateName(name, group), { shape: [1], dtype: "f32" }),
    });
    state.set(stateName("parameters", group), next.parameters);
    for (const [part, value] of Object.entries(next.state)) {
      state.set(stateName(part, group), value);
    }
  }
  rules.forEach((rule, i) => {
    if (!rule.afterStep) return;
    const vectors = eachGroup(
      packing,
      (group) => state.get(stateName("parameters", group)) ?? parameters.get(group)!,
    );
    const leaves = leavesOf(packing, vectors);
    const after = rule.afterStep({
      ...traces[i],
      leaves,
      gradients: leavesOf(packing, gradients),
    });
    for (const [name, value] of Object.entries(after.state ?? {})) {
      state.set(ruleName(rule, name), value);
    }
    if (!after.leaves?.size) return;
    const joined = joinLeaves(packing, new Map([...leaves, ...after.leaves]));
    for (const name of after.leaves.keys()) {
      const { group } = packing.leaves.get(name)!;
      state.set(stateName("parameters", group), joined.get(group)!);
    }
  });
  return { state, norm };
}

/** What rules make of gradients, one after the other. */
function ruledGradients(
  found: ReadonlyMap<string, Value>,
  by: { readonly rules: readonly TrainingRule[]; readonly traces: readonly RuleTrace[] },
): ReadonlyMap<string, Value> {
  return by.rules.reduce((gradients, { gradient }, i) => {
    if (!gradient) return gradients;
    return new Map([...gradients, ...gradient({ ...by.traces[i], gradients })]);
  }, found);
}

/** The name of an optimizer's rate in programs. */
export function rateName(name: string, group: string): string {
  return `rate.${name}${group && `.${group}`}`;
}

function accumulate(graph: Graph, packing: Packing, gradients: Vectors<Value>): Map<string, Value> {
  const held = vectorOf(graph, packing, "gradient");
  return new Map(
    [...gradients].map(([group, g]) => [stateName("gradient", group), add(held.get(group)!, g)]),
  );
}

/** What is trained, as the rules have it. */
function parametersOf(
  graph: Graph,
  { packing, rules = [] }: Pick<StepOptions, "packing" | "rules">,
): Vectors<Value> {
  return rules.reduce((vectors, { constrain }) => {
    if (!constrain) return vectors;
    const leaves = leavesOf(packing, vectors);
    return joinLeaves(packing, new Map([...leaves, ...constrain({ graph, leaves })]));
  }, vectorOf(graph, packing, "parameters"));
}

function vectorOf(graph: Graph, packing: Packing, part: string): Vectors<Value> {
  return eachGroup(
    packing,
    (group, size) =>
      input(graph, stateName(part, group), { shape: [size], dtype: "f32", role: "state" }),
  );
}

function traceOf(graph: Graph, rule: TrainingRule): Omit<RuleTrace, "leaves" | "fixed"> {
  const inputs: Record<string, Value> = {}, state: Record<string, Value> = {};
  for (const [name, { shape, dtype }] of Object.entries(rule.inputs ?? {})) {
    inputs[name] = input(graph, ruleName(rule, name), { shape, dtype });
  }
  for (const [name, { shape }] of Object.entries(rule.state ?? {})) {
    state[name] = input(graph, ruleName(rule, name), { shape, dtype: "f32", role: "state" });
  }
  return { graph, state, inputs };
}

function scalar(graph: Graph, name: string): Value {
  return reshape(input(graph, name, { shape: [1], dtype: "f32" }), []);
}

function named(
  values: ReadonlyMap<string, Value>,
  nameOf: (name: string) => string,
): Record<string, Value> {
  return Object.fromEntries([...values].map(([name, value]) => [nameOf(name), value]));
}
