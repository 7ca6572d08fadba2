/**
 * All trained leaves in one flat vector, so that the optimizer, clipping and accumulation are a
 * handful of operations however many leaves there are.
 *
 * @module
 */
import { TrainingError } from "../errors.ts";
import { concat } from "../ops/concat.ts";
import { pad } from "../ops/pad.ts";
import { reshape } from "../ops/reshape.ts";
import { slice } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";

/** Where one leaf lies in the vector. */
export interface PackedLeaf {
  /** Its name. */
  readonly name: string;
  /** Its shape. */
  readonly shape: readonly number[];
  /** Index of its first element; a multiple of {@link ALIGNMENT}. */
  readonly offset: number;
}

/** Leaves in order and the length of the vector that holds them. */
export interface Packing {
  /** The leaves by name. */
  readonly leaves: ReadonlyMap<string, PackedLeaf>;
  /** Elements of the vector, gaps included. */
  readonly size: number;
}

/**
 * Leaves start at multiples of this many elements (256 bytes), where WebGPU can bind a part of a
 * buffer.
 */
export const ALIGNMENT = 64;

/** Lays out leaves of these shapes. */
export function packLeaves(leaves: ReadonlyMap<string, Tensor>): Packing {
  const packed = new Map<string, PackedLeaf>();
  let offset = 0;
  for (const [name, { shape }] of leaves) {
    packed.set(name, { name, shape, offset });
    offset += aligned(sizeOf(shape));
  }
  return { leaves: packed, size: offset };
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

/** A leaf as a part of the vector. */
export function leafOf(vector: Value, leaf: PackedLeaf): Value {
  return reshape(slice(vector, { starts: [leaf.offset], sizes: [sizeOf(leaf.shape)] }), leaf.shape);
}

/** One value per leaf, in the packing's order, as one vector. */
export function joinLeaves(values: readonly Value[]): Value {
  return concat(
    values.map((v) => {
      const size = sizeOf(v.shape);
      return pad(reshape(v, [size]), { low: [0], high: [aligned(size) - size] });
    }),
    { axis: 0 },
  );
}

/** The contents of leaves as one vector in f32. */
export async function toVector(
  packing: Packing,
  leaves: ReadonlyMap<string, Tensor>,
): Promise<Tensor> {
  const vector = new Float32Array(packing.size);
  for (const { name, offset } of packing.leaves.values()) {
    vector.set(await toFloat32(leaves.get(name)!), offset);
  }
  return tensor(vector);
}

/** The leaves that a vector holds. */
export async function fromVector(packing: Packing, vector: Tensor): Promise<Map<string, Tensor>> {
  const data = await vector.data() as Float32Array;
  const leaves = new Map<string, Tensor>();
  for (const { name, shape, offset } of packing.leaves.values()) {
    leaves.set(name, tensor(data.slice(offset, offset + sizeOf(shape)), { shape }));
  }
  return leaves;
}
