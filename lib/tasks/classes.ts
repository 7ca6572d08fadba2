/**
 * Losses and predictions of choosing among classes, which several tasks share.
 *
 * @module
 */
import { crossEntropy, IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import type { HostPart } from "./objective.ts";

/** Sum of the cross-entropies of scores [.., C] and labels [..], −100 where none is. */
export function classLoss(scores: Value, labels: Value): Value {
  const classes = scores.shape[scores.shape.length - 1];
  return sum(crossEntropy(reshape(scores, [-1, classes]), reshape(labels, [-1])));
}

/** The class with the highest of its scores [.., C] for each label [..] that counts. */
export function chosenClasses(
  batches: readonly (readonly [scores: HostPart, labels: HostPart])[],
): { readonly predicted: readonly number[]; readonly expected: readonly number[] } {
  const predicted: number[] = [], expected: number[] = [];
  for (const [scores, labels] of batches) {
    const size = scores.shape[scores.shape.length - 1];
    labels.data.forEach((label, i) => {
      if (label === IGNORED_LABEL) return;
      expected.push(label);
      predicted.push(highest(scores.data.subarray(i * size, (i + 1) * size)));
    });
  }
  return { predicted, expected };
}

/** The rows of a part, without its first axis. */
export function rowsOf({ data, shape: [rows, ...shape] }: HostPart): HostPart[] {
  const size = data.length / rows;
  return Array.from({ length: rows }, (_, i) => ({
    data: data.subarray(i * size, (i + 1) * size),
    shape,
  }));
}

/** Index of the largest number, the first of equal ones. */
export function highest(numbers: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < numbers.length; i++) if (numbers[i] > numbers[best]) best = i;
  return best;
}

/** How many labels count. */
export function countLabels(labels: Int32Array): number {
  return labels.reduce((n, label) => n + (label === IGNORED_LABEL ? 0 : 1), 0);
}
