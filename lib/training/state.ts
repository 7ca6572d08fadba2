/**
 * What a run keeps on its device from step to step: parameters, the optimizer's state, gradients
 * that add up, and the state of rules.
 *
 * @module
 */
import type { TrainingRule } from "../adapters/training-rule.ts";
import type { RunningState } from "../methods/training-rule.ts";
import type { Device, State } from "../device/device.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import type { Optimizer } from "./optimizer.ts";
import { fromVector, type Packing, toVector } from "./packing.ts";

/** What decides which state there is. */
export interface StateOptions {
  /** Where each leaf lies. */
  readonly packing: Packing;
  /** The optimizer; none where nothing is updated. */
  readonly optimizer?: Optimizer;
  /** What steps follow beside it. */
  readonly rules?: readonly TrainingRule[];
  /** Whether steps add up several batches. */
  readonly accumulates?: boolean;
}

/** State by leaf where it is a vector (`mean.<leaf>`), and else by its name on the device. */
export type SavedState = ReadonlyMap<string, Tensor>;

/** The state of a run. */
export interface TrainingState extends Disposable {
  /** It, as programs take it. */
  readonly device: State;
  /** Copies what a checkpoint keeps to the host. */
  read(): Promise<SavedState>;
  /** Puts it back. */
  write(saved: SavedState): Promise<void>;
  /** Copies what is trained to the host. */
  leaves(): Promise<ReadonlyMap<string, Tensor>>;
  /** The same for what a rule may look at and change. */
  of(rule: TrainingRule): RunningState;
}

/** The name on the device of a part of the state of one group. */
export function stateName(part: string, group: string): string {
  return `train.${part}${group && `.${group}`}`;
}

/** The name on the device of a rule's input or state. */
export function ruleName(rule: TrainingRule, name: string): string {
  return `rule.${rule.name}.${name}`;
}

interface Entry {
  readonly name: string;
  readonly shape: readonly number[];
  /** For vectors: what they are of which leaves. */
  readonly vector?: { readonly part: string; readonly group: string };
  /** What it is at first, where not zero. */
  readonly initial?: Tensor;
  /** Whether it ends with each step. */
  readonly passing?: boolean;
}

function entriesOf({ packing, optimizer, rules = [], accumulates }: StateOptions): Entry[] {
  const entries: Entry[] = [];
  for (const [group, size] of packing.groups) {
    const add = (part: string, shape: readonly number[], passing?: boolean) => {
      const vector = shape.length === 1 && shape[0] === size ? { part, group } : undefined;
      entries.push({ name: stateName(part, group), shape, vector, passing });
    };
    add("parameters", [size]);
    const slots = group === optimizer?.frozen ? {} : optimizer?.init(size) ?? {};
    for (const [part, shape] of Object.entries(slots)) add(part, shape);
    if (accumulates) add("gradient", [size], true);
  }
  for (const rule of rules) {
    for (const [name, initial] of Object.entries(rule.state ?? {})) {
      entries.push({ name: ruleName(rule, name), shape: initial.shape, initial });
    }
  }
  return entries;
}

/** Names and shapes of what a checkpoint keeps. */
export function savedShapes(options: StateOptions): ReadonlyMap<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  for (const { name, shape, vector, passing } of entriesOf(options)) {
    if (!vector) shapes.set(name, shape);
    else if (!passing) {
      for (const [leaf, packed] of options.packing.leaves) {
        if (packed.group === vector.group) shapes.set(`${vector.part}.${leaf}`, packed.shape);
      }
    }
  }
  return shapes;
}

/** Opens the state of a run that begins with these leaves. */
export async function openState(
  device: Device,
  leaves: ReadonlyMap<string, Tensor>,
  options: StateOptions,
): Promise<TrainingState> {
  const { packing } = options;
  const entries = entriesOf(options);
  const state = device.createState(
    Object.fromEntries(entries.map(({ name, shape }) => [name, { shape, dtype: "f32" }])),
  );

  async function readVectors(wanted: (entry: Entry) => boolean, prefix: (part: string) => string) {
    const found = new Map<string, Tensor>();
    for (const { name, vector } of entries.filter(wanted)) {
      const value = await state.read(name);
      if (!vector) found.set(name, value);
      else {
        for (const [leaf, part] of await fromVector(packing, vector.group, value)) {
          found.set(prefix(vector.part) + leaf, part);
        }
      }
    }
    return found;
  }
  const current = () => readVectors(({ vector }) => vector?.part === "parameters", () => "");

  async function writeLeaves(given: ReadonlyMap<string, Tensor>) {
    for (const group of packing.groups.keys()) {
      await state.write(
        stateName("parameters", group),
        await toVector(packing, group, (leaf) => given.get(leaf)!),
      );
    }
  }

  await writeLeaves(leaves);
  for (const { name, initial } of entries) if (initial) await state.write(name, initial);
  return {
    device: state,
    read: () => readVectors(({ passing }) => !passing, (part) => `${part}.`),
    async write(saved) {
      for (const { name, shape: [size], vector, passing } of entries) {
        if (passing) await state.write(name, tensor(new Float32Array(size)));
        else if (!vector) await state.write(name, saved.get(name)!);
        else {
          const { part, group } = vector;
          const value = await toVector(packing, group, (leaf) => saved.get(`${part}.${leaf}`)!);
          await state.write(name, value);
        }
      }
    },
    leaves: current,
    of: (rule) => ({
      async state() {
        const names = Object.keys(rule.state ?? {});
        const values = names.map((name) => state.read(ruleName(rule, name)));
        return Object.fromEntries((await Promise.all(values)).map((value, i) => [names[i], value]));
      },
      leaves: current,
      async writeState(values) {
        for (const [name, value] of Object.entries(values)) {
          await state.write(ruleName(rule, name), value);
        }
      },
      writeLeaves: async (changed) => await writeLeaves(new Map([...await current(), ...changed])),
    }),
    [Symbol.dispose]: () => state[Symbol.dispose](),
  };
}
