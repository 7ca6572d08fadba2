/**
 * What stands for a whole text, from what its tokens have become.
 *
 * @module
 */
import { add, div, equal, max, mul, sqrt, sub } from "../ops/elementwise.ts";
import { cast } from "../ops/cast.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { reduceMax, sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import type { Value } from "../ops/value.ts";

/** The mean of a text's tokens, its first or its last, or the largest of each feature. */
export type Pooling = "mean" | "cls" | "last" | "max";

/** All of them. */
export const POOLINGS: readonly Pooling[] = ["mean", "cls", "last", "max"];

/**
 * One row for each text [B, D] from hidden states [B, T, D].
 *
 * @param segments 0 for tokens that are padding, on either side, `i32` [B, T].
 */
export function pool(h: Value, segments: Value, pooling: Pooling): Value {
  const [b, t, d] = h.shape, { graph } = h;
  const padding = equal(segments, 0), seen = sub(1, cast(padding, "f32"));
  const rows = reshape(seen, [b, t, 1]);
  if (pooling === "mean") {
    return div(sum(mul(h, rows), { axes: [1] }), max(sum(rows, { axes: [1] }), 1e-9));
  }
  if (pooling === "max") {
    return reduceMax(select(reshape(padding, [b, t, 1]), -3e38, h), { axes: [1] });
  }
  const at = cast(iota(graph, [b, t], { axis: 1 }), "f32");
  const place = pooling === "last"
    ? reduceMax(mul(at, seen), { axes: [1] })
    : sub(t - 1, reduceMax(mul(sub(t - 1, at), seen), { axes: [1] }));
  const row = add(cast(place, "i32"), mul(iota(graph, [b], { axis: 0 }), t));
  return gather(reshape(h, [b * t, d]), row);
}

/** Rows [.., D] of length 1. */
export function normalized(x: Value): Value {
  const lengths = sqrt(sum(mul(x, x), { axes: [-1], keepDims: true }));
  return div(x, max(lengths, 1e-12));
}
