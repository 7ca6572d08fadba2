/**
 * Between the features of a token and the heads of its attention.
 *
 * @module
 */
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";

/** [.., H·D] as [.., H, D]. */
export function splitHeads(x: Value, heads: number): Value {
  return reshape(x, [...x.shape.slice(0, -1), heads, -1]);
}

/** [.., H, D] as [.., H·D]. */
export function joinHeads(x: Value): Value {
  return reshape(x, [...x.shape.slice(0, -2), -1]);
}

/** [.., H·P·D] of one layer as P times [.., H, D]: queries, keys and values that lie head by head. */
export function splitFused(
  x: Value,
  { heads, parts }: { readonly heads: number; readonly parts: number },
): Value[] {
  const rows = x.shape.slice(0, -1), axis = rows.length + 1;
  const whole = reshape(x, [...rows, heads, parts, -1]);
  return Array.from(
    { length: parts },
    (_, start) => reshape(sliceAxis(whole, { axis, start, size: 1 }), [...rows, heads, -1]),
  );
}
