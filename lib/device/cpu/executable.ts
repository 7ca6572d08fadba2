/**
 * A program on the CPU device: which session runs it, what it is fed and what becomes of its outputs.
 *
 * @module
 */
import { DeviceError, ValueError } from "../../errors.ts";
import { sameShape } from "../../ops/shapes.ts";
import type { Program } from "../../program/program.ts";
import { type TypedArray, viewAs } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Executable } from "../device.ts";
import { fillMask } from "./dropout.ts";
import {
  checkRows,
  checkState,
  createPlan,
  given,
  knownOffsets,
  type Plan,
  settle,
  stateOf,
} from "./plan.ts";
import type { Families } from "./families.ts";
import { checkInput, type Residency, type Resident } from "./residency.ts";
import {
  createSession,
  type Feed,
  feedOf,
  type PlanSession,
  runSession,
  type Runtime,
  type Session,
} from "./session.ts";
import { CpuState } from "./state.ts";

/** What an executable needs of its device. */
export interface CpuContext {
  readonly runtime: Runtime;
  readonly threads: number;
  readonly residency: Residency;
  /** Graphs that programs share. */
  readonly families: Families;
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

/** Sets of quantized weights whose sessions one program keeps: nobody can wait for the garbage collector to see what they take. */
const MOST_SESSIONS = 4;

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
    if (!plan) plans.set(key, plan = createPlan(program, { read, update }, context));
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
    if (known) {
      // The one that was used last is the last to go.
      plan.sessions.splice(plan.sessions.indexOf(known), 1);
      plan.sessions.push(known);
      return known.session;
    }
    const weights = plan.sources.map((name) => given(inputs, name, plan));
    const read = new Map<string, Promise<Resident>>();
    const contents = await Promise.all(embedded.map(async (e) => {
      const { sources, name, type, shape } = e;
      const arrays = await Promise.all(sources.map(async (source) => {
        // The session has a copy of its own, so what is read for it need not stay.
        const resident = read.get(source) ??
          context.residency.resident(inputs[source], {
            name: source,
            spec: plan.inputs.get(source)!.spec,
            keep: false,
          });
        read.set(source, resident);
        return (await resident).array;
      }));
      return { name, type, shape, data: e.prepare(joinArrays(arrays)) };
    }));
    const { graph } = plan;
    const session = await createSession(
      { ...graph, initializers: [...graph.initializers, ...contents] },
      context,
    );
    context.opened(session);
    const opened = { session, weights: weights.map((w) => new WeakRef(w)) };
    plan.sessions.push(opened);
    if (weights.length) unreachable.register(weights[0], [plan, opened]);
    if (plan.sessions.length > MOST_SESSIONS) close(plan, plan.sessions[0]);
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
    const feeds: Record<string, Feed> = Object.fromEntries(plan.constants);
    const numberIn = async (name: string) => {
      const { array } = plan.inputs.get(name)!.role === "state"
        ? stateOf(state, name).entry(name)
        : await residentOf(plan, inputs, name, ready);
      return array[0] as number;
    };
    for (const mask of plan.lowered.masks) {
      const array = plan.masks.get(mask.name)!;
      fillMask(array, mask, {
        seed: await numberIn(mask.seed),
        firstRow: mask.rows && await numberIn(mask.rows.first),
      });
      feeds[mask.name] = feedOf(context.runtime, array, { type: "u8", shape: [mask.size] });
    }
    for (const { name } of plan.graph.inputs) {
      if (name in feeds) continue;
      const { role, spec } = plan.inputs.get(name)!;
      if (role === "state") {
        feeds[name] = viewOf(stateOf(state, name).entry(name).feed, plan.states.get(name)!);
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

/** The same contents under another shape. */
function viewOf(feed: Feed, shape: readonly number[]): Feed {
  return sameShape(feed.dims, shape) ? feed : feed.reshape(shape);
}

/** Arrays of one type one after the other. */
function joinArrays(arrays: readonly TypedArray[]): TypedArray {
  if (arrays.length === 1) return arrays[0];
  const [first] = arrays;
  const bytes = new Uint8Array(arrays.reduce((n, a) => n + a.byteLength, 0));
  let at = 0;
  for (const { buffer, byteOffset, byteLength } of arrays) {
    bytes.set(new Uint8Array(buffer, byteOffset, byteLength), at);
    at += byteLength;
  }
  return viewAs(bytes, first instanceof Float32Array ? "f32" : "u8");
}
