/**
 * Between the features of a token and the heads of its attention.
 *
 * @module
 */
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";

/** [.., H·D] as [.., H, D]. */
export function splitHeads(x: Value, heads: number): Value {
  return reshape(x, [...x.shape.slice(0, -1), heads, -1]);
}

/** [.., H, D] as [.., H·D]. */
export function joinHeads(x: Value): Value {
  return reshape(x, [...x.shape.slice(0, -2), -1]);
}
