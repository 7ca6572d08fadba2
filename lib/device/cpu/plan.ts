/**
 * What a run of a program needs: the ONNX graph of one choice of outputs, and what becomes of them.
 *
 * @module
 */
import { ShapeError } from "../../errors.ts";
import type { Role } from "../../ops/input.ts";
import { sameShape, showSpec } from "../../ops/shapes.ts";
import type { Spec, Value } from "../../ops/value.ts";
import { type Program, programOf } from "../../program/program.ts";
import type { TypedArray } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { lower, type Lowered } from "./lower.ts";
import type { Families } from "./families.ts";
import type { OnnxGraph } from "./onnx-model.ts";
import { type Feed, feedOf, type PlanSession, type Runtime } from "./session.ts";
import { type CpuState, hostTensor } from "./state.ts";

/** New rows of a cache, which are written into its array. */
export interface RowsUpdate {
  readonly state: string;
  readonly rows: string;
  /** The first position, where that is an input of the program. */
  readonly offsetInput?: Value;
  /** The output that holds the first position, where it is computed. */
  readonly offsetOutput?: string;
  readonly shape: readonly number[];
  readonly count: number;
}

/** The program for one choice of outputs. */
export interface Plan {
  readonly lowered: Pick<Lowered, "outputs" | "embedded" | "masks">;
  /** The graph, which programs of other lengths may share. */
  readonly graph: OnnxGraph;
  /** Constants of this program that are inputs of the graph. */
  readonly constants: ReadonlyMap<string, Feed>;
  readonly inputs: ReadonlyMap<string, { readonly spec: Spec; readonly role: Role }>;
  /** State name to the output that replaces it. */
  readonly replaced: ReadonlyMap<string, string>;
  readonly rows: readonly RowsUpdate[];
  readonly sessions: PlanSession[];
  /** Shapes in which the graph reads states. */
  readonly states: ReadonlyMap<string, readonly number[]>;
  /** Names of the weights that are part of a session. */
  readonly sources: readonly string[];
  /** What dropout masks are written to, by name. */
  readonly masks: ReadonlyMap<string, Uint8Array>;
}

/** Lowers what is needed to read these outputs and, if asked to, to update the state. */
export function createPlan(
  program: Program,
  choice: { readonly read: readonly string[]; readonly update: boolean },
  { families, runtime }: { readonly families: Families; readonly runtime: Runtime },
): Plan {
  const { read, update } = choice;
  const outputs: Record<string, Value> = {};
  for (const name of read) outputs[name] = program.outputs.get(name)!;
  const replaced = new Map<string, string>();
  const rows: RowsUpdate[] = [];
  for (const [state, name] of update ? program.updates : []) {
    const value = program.outputs.get(name)!;
    if (value.op === "cacheUpdate" && value.inputs[0] === program.inputs.get(state)) {
      // The array is updated in place, so only what is new leaves the session.
      const [, fresh, offset] = value.inputs;
      const update: RowsUpdate = {
        state,
        rows: `rows of ${state}`,
        ...(offset.op === "input"
          ? { offsetInput: offset }
          : { offsetOutput: `offset of ${offset.id}` }),
        shape: value.shape,
        count: fresh.shape[1],
      };
      outputs[update.rows] = fresh;
      if (update.offsetOutput) outputs[update.offsetOutput] = offset;
      rows.push(update);
    } else {
      outputs[name] = value;
      replaced.set(state, name);
    }
  }
  const needed = programOf(outputs);
  const lowered = lower(needed, { embed: "packed", hostMasks: true });
  const { graph, sessions, constants } = families.join(lowered);
  const { outputs: lowerings, embedded, masks } = lowered;
  return {
    lowered: { outputs: lowerings, embedded, masks },
    graph,
    constants: new Map(
      constants.map((c) => [
        c.name,
        feedOf(runtime, c.data!, { type: c.type, shape: c.shape }),
      ]),
    ),
    sources: [...new Set(lowered.embedded.flatMap((e) => e.sources))],
    masks: new Map(lowered.masks.map((m) => [m.name, new Uint8Array(m.size)])),
    inputs: new Map(
      [...needed.inputs].map(([name, v]) => [name, { spec: v, role: v.attributes.role as Role }]),
    ),
    states: new Map(lowered.graph.inputs.map(({ name, shape }) => [name, shape])),
    replaced,
    rows,
    sessions,
  };
}

/** The tensor for an input; throws where it is missing. */
export function given(
  inputs: Readonly<Record<string, Tensor>>,
  name: string,
  plan: { readonly inputs: ReadonlyMap<string, { readonly role: Role }> },
): Tensor {
  const tensor = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
  if (!tensor) {
    const missing = [...plan.inputs].filter(([n, { role }]) =>
      role !== "state" && !Object.hasOwn(inputs, n)
    ).map(([n]) => n);
    throw new ShapeError(
      "INPUT_MISSING",
      `The program was run without its input "${name}" (missing are ${missing.join(", ")}).`,
      { name, missing },
    );
  }
  return tensor;
}

/** The state, which has to be there to read this entry. */
export function stateOf(state: CpuState | undefined, name: string): CpuState {
  if (state) return state;
  throw new ShapeError(
    "STATE_MISSING",
    `The program has the state "${name}", so it has to be run with a state that holds it.`,
    { name },
  );
}

/** Throws unless the state holds what the program reads. */
export function checkState(plan: Plan, state: CpuState | undefined): void {
  for (const [name, { spec, role }] of plan.inputs) {
    if (role !== "state") continue;
    const found = stateOf(state, name).specs[name];
    if (!found || found.dtype !== spec.dtype || !sameShape(found.shape, spec.shape)) {
      throw new ShapeError(
        "STATE",
        `The program's state "${name}" is ${showSpec(spec)}, but the given state ${
          found ? `has ${showSpec(found)}` : "does not hold it"
        }.`,
        { name },
      );
    }
  }
}

/** Updates the state and gives what was asked for. */
export function settle(plan: Plan, run: {
  readonly results: Readonly<Record<string, Feed>>;
  /** Where the rows of each update go, where that was known before the run. */
  readonly offsets: readonly (number | undefined)[];
  readonly state: CpuState | undefined;
  readonly read: readonly string[];
}): Readonly<Record<string, Tensor>> {
  const { results, offsets, state, read } = run;
  const arrayOf = (name: string) =>
    results[plan.lowered.outputs.get(name)!.onnx].data as TypedArray;
  plan.rows.forEach((update, i) => {
    const offset = offsets[i] ?? arrayOf(update.offsetOutput!)[0] as number;
    writeRows(state!.entry(update.state).array, arrayOf(update.rows), { update, offset });
  });
  const taken = new Set<TypedArray>();
  for (const [name, output] of plan.replaced) {
    const array = arrayOf(output);
    state!.replace(name, taken.has(array) ? array.slice() as TypedArray : array);
    taken.add(array);
  }
  const outputs: Record<string, Tensor> = {};
  for (const name of read) {
    const array = arrayOf(name);
    // States may be written to in place later, tensors never change.
    const own = taken.has(array) ? array.slice() as TypedArray : array;
    outputs[name] = hostTensor(own, plan.lowered.outputs.get(name)!);
  }
  return outputs;
}

/** The first position of each update, where that is known before the run. */
export async function knownOffsets(
  updates: readonly RowsUpdate[],
  inputs: Readonly<Record<string, Tensor>>,
  state: CpuState | undefined,
): Promise<readonly (number | undefined)[]> {
  // All layers have one offset, as a rule.
  const known = new Map<Value | undefined, number | undefined>([[undefined, undefined]]);
  for (const { offsetInput } of updates) {
    if (known.has(offsetInput)) continue;
    const { name, role } = offsetInput!.attributes as { name: string; role: Role };
    const data = role === "state"
      ? stateOf(state, name).entry(name).array
      : await given(inputs, name, { inputs: new Map([[name, { role }]]) }).data();
    known.set(offsetInput, data[0] as number);
  }
  return updates.map(({ offsetInput }) => known.get(offsetInput));
}

/** Throws where rows do not fit the cache. */
export function checkRows(update: RowsUpdate, offset: number): void {
  const length = update.shape[1];
  if (offset < 0 || offset + update.count > length) {
    throw new ShapeError(
      "CACHE_FULL",
      `${update.count} rows at ${offset} do not fit the cache "${update.state}", which holds ${length}.`,
      { state: update.state, offset, count: update.count, length },
    );
  }
}

function writeRows(
  cache: TypedArray,
  rows: TypedArray,
  { update, offset }: { readonly update: RowsUpdate; readonly offset: number },
): void {
  checkRows(update, offset);
  const [samples, length, heads, size] = update.shape;
  const row = heads * size;
  for (let b = 0; b < samples; b++) {
    const part = rows.subarray(b * update.count * row, (b + 1) * update.count * row);
    (cache as Float32Array).set(part as Float32Array, (b * length + offset) * row);
  }
}
