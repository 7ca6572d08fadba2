/**
 * Scores that depend on how far a key is from a query, learned for buckets of distances (Raffel et al.,
 * 2020, arXiv:1910.10683).
 *
 * @module
 */
import { constant } from "../ops/constant.ts";
import { add, max, min } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";

/** How distances share the rows of a table. */
export interface DistanceBuckets {
  /** Number of rows that they share. */
  readonly buckets: number;
  /** All beyond it share one. */
  readonly maxDistance: number;
  /** Whether keys behind a query have rows of their own. */
  readonly bidirectional: boolean;
}

/**
 * The bias [H, T, S] of scores, from the distances [T, S] of keys by a table [buckets, H]; made once
 * for all layers.
 */
export function distanceBias(
  table: (x: Value) => Value,
  of: DistanceBuckets,
): (distance: Value) => Value {
  const known = new Map<Value, Value>();
  // All distances beyond the largest share its bucket.
  const first = -of.maxDistance, end = of.bidirectional ? of.maxDistance : 0;
  const buckets = Array.from(
    { length: end - first + 1 },
    (_, i) => distanceBucket(first + i, of),
  );
  return (distance) => {
    let bias = known.get(distance);
    if (!bias) {
      const rows = table(constant(distance.graph, buckets, { dtype: "i32" }));
      const place = add(min(max(distance, first), end), -first);
      known.set(distance, bias = transpose(gather(rows, place), [2, 0, 1]));
    }
    return bias;
  };
}

/** The bucket of a distance: one for each that is small, and wider ones in steps of its logarithm. */
function distanceBucket(
  distance: number,
  of: DistanceBuckets,
): number {
  const { bidirectional, maxDistance } = of;
  const buckets = bidirectional ? Math.floor(of.buckets / 2) : of.buckets;
  const start = bidirectional && distance > 0 ? buckets : 0;
  const far = bidirectional ? Math.abs(distance) : Math.max(-distance, 0);
  const exact = Math.floor(buckets / 2);
  if (far < exact) return start + far;
  // In single precision, as transformers computes it.
  const ratio = Math.fround(Math.log(Math.fround(far / exact)));
  const step = Math.fround(
    Math.fround(ratio / Math.log(maxDistance / exact)) * (buckets - exact),
  );
  return start + Math.min(exact + Math.trunc(step), buckets - 1);
}
