/**
 * Losses and metrics of choosing among classes, which several tasks share.
 *
 * @module
 */
import { equal, greaterEqual, mul } from "../ops/elementwise.ts";
import { cast } from "../ops/cast.ts";
import { crossEntropy, IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { iota } from "../ops/iota.ts";
import { reduceMax, sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";

/** Sum of the cross-entropies of scores [.., C] and labels [..], −100 where none is. */
export function classLoss(scores: Value, labels: Value): Value {
  const classes = scores.shape[scores.shape.length - 1];
  return sum(crossEntropy(reshape(scores, [-1, classes]), reshape(labels, [-1])));
}

/** How many labels [..] have the highest of their scores [.., C]. */
export function countCorrect(scores: Value, labels: Value): Value {
  const classes = scores.shape[scores.shape.length - 1];
  const rows = reshape(scores, [-1, classes]), n = rows.shape[0];
  const wanted = equal(iota(scores.graph, [n, classes], { axis: 1 }), reshape(labels, [n, 1]));
  const own = sum(mul(rows, cast(wanted, "f32")), { axes: [1] });
  const right = cast(greaterEqual(own, reduceMax(rows, { axes: [1] })), "f32");
  return sum(mul(right, cast(greaterEqual(reshape(labels, [n]), 0), "f32")));
}

/** How many labels count. */
export function countLabels(labels: Int32Array): number {
  return labels.reduce((n, label) => n + (label === IGNORED_LABEL ? 0 : 1), 0);
}
