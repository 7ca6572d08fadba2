/**
 * A program on the CPU device: which session runs it, what it is fed and what becomes of its outputs.
 *
 * @module
 */
import { DeviceError, ShapeError, ValueError } from "../../errors.ts";
import type { Role } from "../../ops/input.ts";
import type { Spec, Value } from "../../ops/value.ts";
import { type Program, programOf } from "../../program/program.ts";
import type { TypedArray } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Executable } from "../device.ts";
import { fillMask } from "./dropout.ts";
import { lower, type Lowered } from "./lower.ts";
import { checkInput, type Residency, type Resident } from "./residency.ts";
import {
  createSession,
  type Feed,
  feedOf,
  runSession,
  type Runtime,
  type Session,
} from "./session.ts";
import { CpuState, hostTensor } from "./state.ts";

/** What an executable needs of its device. */
export interface CpuContext {
  readonly runtime: Runtime;
  readonly threads: number;
  readonly residency: Residency;
  /** Throws when the device was disposed of. */
  check(): void;
  /** Runs tasks one after the other. */
  enqueue<T>(task: () => Promise<T>): Promise<T>;
  /** Takes over a session, to release it at the latest with the device. */
  opened(session: Session): void;
  /** Releases a session. */
  closed(session: Session): void;
}

/** An executable, with what the device does to it. */
export interface CpuExecutable extends Executable {
  /** Opens the session of the default outputs where that needs no weights. */
  open(): Promise<void>;
  /** Closes the sessions that hold these weights. */
  release(weights: ReadonlySet<Tensor>): void;
}

/** New rows of a cache, which are written into its array. */
interface RowsUpdate {
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
interface Plan {
  readonly lowered: Lowered;
  readonly inputs: ReadonlyMap<string, { readonly spec: Spec; readonly role: Role }>;
  /** State name to the output that replaces it. */
  readonly replaced: ReadonlyMap<string, string>;
  readonly rows: readonly RowsUpdate[];
  readonly sessions: PlanSession[];
  /** Names of the weights that are part of a session. */
  readonly sources: readonly string[];
  /** What dropout masks are written to, by name. */
  readonly masks: ReadonlyMap<string, Uint8Array>;
}

/** A session, and the weights that are part of it. */
interface PlanSession {
  readonly session: Session;
  readonly weights: readonly WeakRef<Tensor>[];
}

/** Compiles a program for the CPU device. */
export function createExecutable(program: Program, context: CpuContext): CpuExecutable {
  const plans = new Map<string, Plan>();
  const updated = new Set(program.updates.values());
  const defaults = [...program.outputs.keys()].filter((name) => !updated.has(name));

  // A session whose weights nobody has any more cannot be asked for again.
  const unreachable = new FinalizationRegistry<readonly [Plan, PlanSession]>(([plan, session]) =>
    close(plan, session)
  );

  function close(plan: Plan, session: PlanSession): void {
    const i = plan.sessions.indexOf(session);
    if (i < 0) return;
    plan.sessions.splice(i, 1);
    context.closed(session.session);
  }

  function planFor(read: readonly string[], update: boolean): Plan {
    const key = JSON.stringify([update, ...read]);
    let plan = plans.get(key);
    if (!plan) plans.set(key, plan = createPlan(program, read, update));
    return plan;
  }

  async function sessionFor(
    plan: Plan,
    inputs: Readonly<Record<string, Tensor>>,
  ): Promise<Session> {
    const { embedded } = plan.lowered;
    const known = plan.sessions.find((s) =>
      s.weights.every((weight, i) => weight.deref() === inputs[plan.sources[i]])
    );
    if (known) return known.session;
    const weights = plan.sources.map((name) => given(inputs, name, plan));
    const read = new Map<string, Promise<Resident>>();
    const contents = await Promise.all(embedded.map(async (e) => {
      const { source: name, type, shape } = e, { spec } = plan.inputs.get(name)!;
      // The session has a copy of its own, so what is read for it need not stay.
      const resident = read.get(name) ??
        context.residency.resident(inputs[name], { name, spec, keep: false });
      read.set(name, resident);
      return { name: e.name, type, shape, data: e.prepare((await resident).array) };
    }));
    const { graph } = plan.lowered;
    const session = await createSession(
      { ...graph, initializers: [...graph.initializers, ...contents] },
      context,
    );
    context.opened(session);
    const opened = { session, weights: weights.map((w) => new WeakRef(w)) };
    plan.sessions.push(opened);
    if (weights.length) unreachable.register(weights[0], [plan, opened]);
    return session;
  }

  async function residentOf(
    plan: Plan,
    inputs: Readonly<Record<string, Tensor>>,
    name: string,
    ready: ReadonlyMap<string, Resident>,
  ): Promise<Resident> {
    const { spec, role } = plan.inputs.get(name)!;
    return ready.get(name) ??
      await context.residency.resident(given(inputs, name, plan), {
        name,
        spec,
        keep: role === "weight",
      });
  }

  async function feedsOf(
    plan: Plan,
    inputs: Readonly<Record<string, Tensor>>,
    state: CpuState | undefined,
    ready: ReadonlyMap<string, Resident>,
  ): Promise<Record<string, Feed>> {
    const feeds: Record<string, Feed> = {};
    for (const mask of plan.lowered.masks) {
      const array = plan.masks.get(mask.name)!;
      const seed = plan.inputs.get(mask.seed)!.role === "state"
        ? stateOf(state, mask.seed).entry(mask.seed).array
        : (await residentOf(plan, inputs, mask.seed, ready)).array;
      fillMask(array, mask, seed[0] as number);
      feeds[mask.name] = feedOf(context.runtime, array, { type: "u8", shape: [mask.size] });
    }
    for (const { name } of plan.lowered.graph.inputs) {
      if (name in feeds) continue;
      const { role, spec } = plan.inputs.get(name)!;
      if (role === "state") {
        feeds[name] = stateOf(state, name).entry(name).feed;
        continue;
      }
      // Hundreds of weights are there already as a rule, and a wait for each takes longer than a step of decoding should.
      const tensor = given(inputs, name, plan);
      const known = context.residency.known(tensor);
      if (known) checkInput(tensor, name, spec);
      feeds[name] = (known ?? await residentOf(plan, inputs, name, ready)).feed;
    }
    return feeds;
  }

  /** What programs of this device compute when it is read, as merged weights are: waiting for it inside the queue would wait forever. */
  async function computedInputs(
    plan: Plan,
    inputs: Readonly<Record<string, Tensor>>,
  ): Promise<ReadonlyMap<string, Resident>> {
    const ready = new Map<string, Resident>();
    for (const [name, { spec, role }] of plan.inputs) {
      if (inputs[name]?.where !== "device") continue;
      const keep = role === "weight";
      ready.set(name, await context.residency.resident(inputs[name], { name, spec, keep }));
    }
    return ready;
  }

  return {
    program,
    async open() {
      const plan = planFor(defaults, program.updates.size > 0);
      if (plan.lowered.embedded.length === 0) await sessionFor(plan, {});
    },
    run(inputs, { state, read = defaults } = {}) {
      context.check();
      if (state && !(state instanceof CpuState)) {
        throw new DeviceError("STATE_DEVICE", "The state belongs to another device.");
      }
      const unknown = read.filter((name) => !program.outputs.has(name));
      if (unknown.length) {
        throw new ValueError(
          "OUTPUT",
          `The program has no output ${unknown.join(", ")}; it has ${
            [...program.outputs.keys()].join(", ")
          }.`,
        );
      }
      const plan = planFor(read, state !== undefined && program.updates.size > 0);
      checkState(plan, state);
      const start = (ready: ReadonlyMap<string, Resident>) =>
        context.enqueue(async () => {
          context.check();
          const session = await sessionFor(plan, inputs);
          const feeds = await feedsOf(plan, inputs, state, ready);
          const offsets = await knownOffsets(plan.rows, inputs, state);
          // What does not fit is refused before anything is computed.
          plan.rows.forEach((update, i) =>
            offsets[i] === undefined || checkRows(update, offsets[i])
          );
          const results = await runSession(session, feeds);
          return settle(plan, { results, offsets, state, read });
        });
      // Runs keep the order of their calls unless one has to compute its inputs first.
      return Object.values(inputs).some(({ where }) => where === "device")
        ? computedInputs(plan, inputs).then(start)
        : start(new Map());
    },
    release(weights) {
      for (const plan of plans.values()) {
        for (const session of [...plan.sessions]) {
          if (session.weights.some((w) => weights.has(w.deref()!))) close(plan, session);
        }
      }
    },
  };
}

function createPlan(program: Program, read: readonly string[], update: boolean): Plan {
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
  return {
    lowered,
    sources: [...new Set(lowered.embedded.map((e) => e.source))],
    masks: new Map(lowered.masks.map((m) => [m.name, new Uint8Array(m.size)])),
    inputs: new Map(
      [...needed.inputs].map(([name, v]) => [name, { spec: v, role: v.attributes.role as Role }]),
    ),
    replaced,
    rows,
    sessions: [],
  };
}

function given(
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

function stateOf(state: CpuState | undefined, name: string): CpuState {
  if (state) return state;
  throw new ShapeError(
    "STATE_MISSING",
    `The program has the state "${name}", so it has to be run with a state that holds it.`,
    { name },
  );
}

function checkState(plan: Plan, state: CpuState | undefined): void {
  for (const [name, { spec, role }] of plan.inputs) {
    if (role !== "state") continue;
    const found = stateOf(state, name).specs[name];
    if (!found || found.dtype !== spec.dtype || found.shape.join() !== spec.shape.join()) {
      throw new ShapeError(
        "STATE",
        `The program's state "${name}" is ${spec.dtype}[${spec.shape}], but the given state ${
          found ? `has ${found.dtype}[${found.shape}]` : "does not hold it"
        }.`,
        { name },
      );
    }
  }
}

/** Updates the state and gives what was asked for. */
function settle(plan: Plan, run: {
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

async function knownOffsets(
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

function checkRows(update: RowsUpdate, offset: number): void {
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
