/**
 * All trained leaves in flat vectors, one for each group of parameters, so that the optimizer,
 * clipping and accumulation are a handful of operations however many leaves there are.
 *
 * @module
 */
import { TrainingError } from "../errors.ts";
import { concat } from "../ops/concat.ts";
import { reshape } from "../ops/reshape.ts";
import { pad, slice } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";

/** Where one leaf lies. */
export interface PackedLeaf {
  /** Its shape. */
  readonly shape: readonly number[];
  /** The group in whose vector it lies. */
  readonly group: string;
  /** Index of its first element; a multiple of {@link ALIGNMENT}. */
  readonly offset: number;
}

/** Leaves in order, and the vectors that hold them. */
export interface Packing {
  /** The leaves by name. */
  readonly leaves: ReadonlyMap<string, PackedLeaf>;
  /** Elements of each group's vector, gaps included. */
  readonly groups: ReadonlyMap<string, number>;
}

/** One value for each group. */
export type Vectors<T> = ReadonlyMap<string, T>;

/**
 * Leaves start at multiples of this many elements (256 bytes), where WebGPU can bind a part of a
 * buffer.
 */
export const ALIGNMENT = 64;

/**
 * Lays out leaves of these shapes, but for those without elements.
 *
 * @param leaves The leaves; only their shapes count.
 * @param groupOf The group of a leaf; all are in one, `""`, without it.
 */
export function packLeaves(
  leaves: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  groupOf: (name: string, shape: readonly number[]) => string = () => "",
): Packing {
  const packed = new Map<string, PackedLeaf>();
  const groups = new Map<string, number>();
  for (const [name, { shape }] of leaves) {
    if (sizeOf(shape) === 0) continue;
    const group = groupOf(name, shape);
    const offset = groups.get(group) ?? 0;
    packed.set(name, { shape, group, offset });
    groups.set(group, offset + aligned(sizeOf(shape)));
  }
  return { leaves: packed, groups };
}

/** The error for a model of which no leaf is trained. */
export function nothingToTrain(): TrainingError {
  return new TrainingError(
    "NOTHING_TO_TRAIN",
    "The model has nothing to train: none of its active adapters is trainable. " +
      "Load the adapter with isTrainable, activate it, or switch it on (enableAdapters).",
  );
}

function aligned(size: number): number {
  return Math.ceil(size / ALIGNMENT) * ALIGNMENT;
}

/** Something made of each group's vector. */
export function eachGroup<T>(packing: Packing, make: (group: string, size: number) => T): Map<
  string,
  T
> {
  return new Map([...packing.groups].map(([group, size]) => [group, make(group, size)]));
}

/** A leaf as a part of its group's vector. */
export function leafOf(vector: Value, leaf: PackedLeaf): Value {
  return reshape(slice(vector, { starts: [leaf.offset], sizes: [sizeOf(leaf.shape)] }), leaf.shape);
}

/** All leaves as parts of their vectors. */
export function leavesOf(packing: Packing, vectors: Vectors<Value>): Map<string, Value> {
  return new Map(
    [...packing.leaves].map(([name, leaf]) => [name, leafOf(vectors.get(leaf.group)!, leaf)]),
  );
}

/** A value for each leaf as one vector for each group. */
export function joinLeaves(packing: Packing, values: ReadonlyMap<string, Value>): Vectors<Value> {
  return eachGroup(packing, (group) =>
    concat(
      [...packing.leaves].filter(([, leaf]) => leaf.group === group).map(([name, { shape }]) => {
        const size = sizeOf(shape);
        const flat = reshape(values.get(name)!, [size]);
        return pad(flat, { low: [0], high: [aligned(size) - size] });
      }),
      { axis: 0 },
    ));
}

/** The contents of a group's leaves as its vector in f32. */
export async function toVector(
  packing: Packing,
  group: string,
  leafAt: (name: string) => Tensor,
): Promise<Tensor> {
  const vector = new Float32Array(packing.groups.get(group)!);
  for (const [name, leaf] of packing.leaves) {
    if (leaf.group === group) vector.set(await toFloat32(leafAt(name)), leaf.offset);
  }
  return tensor(vector);
}

/** The leaves that a group's vector holds. */
export async function fromVector(
  packing: Packing,
  group: string,
  vector: Tensor,
): Promise<Map<string, Tensor>> {
  const data = await vector.data() as Float32Array;
  const leaves = new Map<string, Tensor>();
  for (const [name, { shape, offset, group: own }] of packing.leaves) {
    if (own !== group) continue;
    leaves.set(name, tensor(data.slice(offset, offset + sizeOf(shape)), { shape }));
  }
  return leaves;
}
