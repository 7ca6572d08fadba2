/**
 * The parts of a block-quantized tensor as tensors of their own, for programs.
 *
 * @module
 */
import { blockLayout, type BlockQuantized, repackBlocks } from "./blocks.ts";
import type { BlockType, TypedArray } from "./dtype.ts";
import type { Tensor } from "./tensor.ts";

/** A block-quantized matrix [rows, columns] in the layout that both devices read. */
export interface QuantizedParts {
  /** `u8` [rows, columns · bits / 8]. */
  readonly packed: Tensor;
  /** `f32` [rows, columns / block]. */
  readonly scales: Tensor;
  /** `f32` [rows, columns / block], where the format has offsets. */
  readonly offsets?: Tensor;
  /** 4 or 8. */
  readonly bits: 4 | 8;
  /** Elements per block along a row. */
  readonly block: number;
}

// Identity stands for contents, so the parts of one tensor are made once.
const known = new WeakMap<Tensor, QuantizedParts>();

/**
 * The parts of a tensor of a block type. Their contents are unpacked together when the first is
 * read, and let go when all were.
 */
export function quantizedParts(tensor: Tensor): QuantizedParts {
  const cached = known.get(tensor);
  if (cached) return cached;
  const [rows, columns] = tensor.shape;
  const { bits, block, offsets: withOffsets } = blockLayout(tensor.dtype as BlockType);
  let pending: Promise<BlockQuantized> | undefined;
  const unread = new Set<string>();
  const part = (
    name: "packed" | "scales" | "offsets",
    dtype: "u8" | "f32",
    shape: number[],
  ): Tensor => ({
    dtype,
    shape,
    where: tensor.where,
    async data(): Promise<TypedArray> {
      if (!pending) {
        pending = repackBlocks(tensor);
        for (const n of withOffsets ? ["packed", "scales", "offsets"] : ["packed", "scales"]) {
          unread.add(n);
        }
      }
      const all = await pending;
      unread.delete(name);
      if (unread.size === 0) pending = undefined;
      return all[name] as TypedArray;
    },
  });
  const parts: QuantizedParts = {
    packed: part("packed", "u8", [rows, columns * bits / 8]),
    scales: part("scales", "f32", [rows, columns / block]),
    offsets: withOffsets ? part("offsets", "f32", [rows, columns / block]) : undefined,
    bits,
    block,
  };
  known.set(tensor, parts);
  return parts;
}
