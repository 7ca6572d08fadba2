/**
 * How well classes were told apart.
 *
 * @module
 */

import { ShapeError } from "../../errors.ts";

/** How often a class was rightly found, found at all, and there to be found. */
interface Tally {
  readonly hits: number;
  readonly found: number;
  readonly wanted: number;
}

/** What {@link classScores} gives. */
export interface ClassScores {
  /** Share that is right. F1 over all decisions (`micro`) is the same. */
  readonly accuracy: number;
  /** Of two classes, F1 of the second. */
  readonly f1?: number;
  /** Mean of the classes' F1, of those that were expected or predicted. */
  readonly f1Macro: number;
  /** The same, weighted by how often each was expected. */
  readonly f1Weighted: number;
  /** Matthews' correlation, from −1 to 1; 0 where all is of one class. */
  readonly matthews: number;
}

/** What {@link labelSetScores} gives. */
export interface LabelSetScores {
  /** Share of rows of which every label is right. */
  readonly accuracy: number;
  /** F1 over all labels of all rows. */
  readonly f1Micro: number;
  /** Mean of the labels' F1. */
  readonly f1Macro: number;
  /** The same, weighted by how often each was expected. */
  readonly f1Weighted: number;
}

/**
 * Accuracy, F1 and Matthews' correlation of one class for each row, as in scikit-learn.
 *
 * @param predicted A class from 0 for each row.
 * @param expected The right ones.
 * @param options `classes` is how many there are.
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 *
 * @example
 * ```ts
 * import { classScores } from "@graft/peft";
 * console.log(classScores([1, 0, 1, 1], [1, 0, 0, 1], { classes: 2 }).f1); // 0.8
 * ```
 */
export function classScores(
  predicted: ArrayLike<number>,
  expected: ArrayLike<number>,
  { classes }: { readonly classes: number },
): ClassScores {
  const n = pairCount(predicted, expected);
  const tallies = Array.from(
    { length: classes },
    (_, of) => tallyOf(n, (i) => predicted[i] === of, (i) => expected[i] === of),
  );
  const seen = tallies.filter(({ found, wanted }) => found + wanted > 0);
  const total = (of: (tally: Tally) => number) => tallies.reduce((sum, t) => sum + of(t), 0);
  const right = total(({ hits }) => hits);
  const spread = (of: "found" | "wanted") => n * n - total((t) => t[of] * t[of]);
  const together = right * n - total(({ found, wanted }) => found * wanted);
  return {
    accuracy: ratio(right, n),
    ...classes === 2 && { f1: f1Of(tallies[1]) },
    f1Macro: macro(seen),
    f1Weighted: weighted(seen),
    matthews: ratio(together, Math.sqrt(spread("found") * spread("wanted"))),
  };
}

/**
 * Accuracy and F1 of rows that may have several labels, as in scikit-learn.
 *
 * @param predicted For each row, 1 for each label that it has and 0 for the others.
 * @param expected The right ones.
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 *
 * @example
 * ```ts
 * import { labelSetScores } from "@graft/peft";
 * console.log(labelSetScores([[1, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 1, 0]]).f1Micro); // 0.8
 * ```
 */
export function labelSetScores(
  predicted: readonly ArrayLike<number>[],
  expected: readonly ArrayLike<number>[],
): LabelSetScores {
  const n = pairCount(predicted, expected);
  const tallies = Array.from(
    expected[0] ?? [],
    (_, of) => tallyOf(n, (i) => predicted[i][of] === 1, (i) => expected[i][of] === 1),
  );
  const whole = expected.filter((row, i) => Array.from(row).every((x, k) => predicted[i][k] === x));
  const all = tallies.reduce((sum, t) => ({
    hits: sum.hits + t.hits,
    found: sum.found + t.found,
    wanted: sum.wanted + t.wanted,
  }), { hits: 0, found: 0, wanted: 0 });
  return {
    accuracy: ratio(whole.length, n),
    f1Micro: f1Of(all),
    f1Macro: macro(tallies),
    f1Weighted: weighted(tallies),
  };
}

function tallyOf(n: number, finds: (i: number) => boolean, wants: (i: number) => boolean): Tally {
  let hits = 0, found = 0, wanted = 0;
  for (let i = 0; i < n; i++) {
    const [is, should] = [finds(i), wants(i)];
    if (is) found++;
    if (should) wanted++;
    if (is && should) hits++;
  }
  return { hits, found, wanted };
}

function f1Of({ hits, found, wanted }: Tally): number {
  return ratio(2 * hits, found + wanted);
}

function macro(tallies: readonly Tally[]): number {
  return ratio(tallies.reduce((sum, t) => sum + f1Of(t), 0), tallies.length);
}

function weighted(tallies: readonly Tally[]): number {
  const all = tallies.reduce((sum, t) => sum + t.wanted, 0);
  return ratio(tallies.reduce((sum, t) => sum + f1Of(t) * t.wanted, 0), all);
}

/**
 * How many there are of what was predicted and what was expected.
 *
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 */
export function pairCount(predicted: ArrayLike<unknown>, expected: ArrayLike<unknown>): number {
  if (predicted.length === expected.length) return expected.length;
  throw new ShapeError(
    "METRIC_SHAPE",
    `What is measured needs as many predictions as right answers; there are ${predicted.length} and ${expected.length}.`,
  );
}

/** A share; 0 of nothing. */
export function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}
