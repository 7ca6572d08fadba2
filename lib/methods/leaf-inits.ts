/**
 * How most leaves begin.
 *
 * @module
 */
import { sizeOf } from "../tensor/dtype.ts";
import { kaimingUniform } from "./lora/lora-init.ts";
import type { LeafRule } from "./method.ts";

/** A leaf of zeros. */
export function zeroLeaf(shape: readonly number[]): LeafRule {
  return { shape, init: () => new Float32Array(sizeOf(shape)) };
}

/** A leaf that begins as the weight of a linear layer or a convolution of this shape does. */
export function uniformLeaf(shape: readonly number[]): LeafRule {
  const size = sizeOf(shape), features = size / shape[0];
  return { shape, init: ({ random }) => kaimingUniform(random, { size, features }) };
}
