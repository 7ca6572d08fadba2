/**
 * How near numbers came.
 *
 * @module
 */
import { pairCount, ratio } from "./class-scores.ts";

/** What {@link numberScores} gives. */
export interface NumberScores {
  /** Mean of the squared errors. */
  readonly mse: number;
  /** Mean of the absolute errors. */
  readonly mae: number;
  /** Pearson's correlation, from −1 to 1; 0 where either side is the same throughout. */
  readonly pearson: number;
  /** Spearman's correlation, of ranks; equal numbers share the mean of their ranks. */
  readonly spearman: number;
}

/**
 * Errors and correlations of predicted numbers, as in scikit-learn and SciPy.
 *
 * @param predicted One number for each row.
 * @param expected The right ones.
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 *
 * @example
 * ```ts
 * import { numberScores } from "@graft/peft";
 * const { mae, spearman } = numberScores([1, 2, 5], [1, 3, 4]);
 * console.log(mae.toFixed(2), spearman); // 0.67 1
 * ```
 */
export function numberScores(
  predicted: ArrayLike<number>,
  expected: ArrayLike<number>,
): NumberScores {
  pairCount(predicted, expected);
  const off = Array.from(expected, (x, i) => x - predicted[i]);
  return {
    mse: mean(off.map((x) => x * x)),
    mae: mean(off.map(Math.abs)),
    pearson: correlation(Array.from(predicted), Array.from(expected)),
    spearman: correlation(ranks(predicted), ranks(expected)),
  };
}

function mean(numbers: readonly number[]): number {
  return ratio(numbers.reduce((sum, x) => sum + x, 0), numbers.length);
}

function correlation(a: readonly number[], b: readonly number[]): number {
  const [x, y] = [a, b].map((numbers) => {
    const middle = mean(numbers);
    return numbers.map((number) => number - middle);
  });
  const dot = (u: readonly number[], v: readonly number[]) =>
    u.reduce((s, p, i) => s + p * v[i], 0);
  return ratio(dot(x, y), Math.sqrt(dot(x, x) * dot(y, y)));
}

function ranks(numbers: ArrayLike<number>): number[] {
  const order = Array.from(numbers, (_, i) => i).sort((a, b) => numbers[a] - numbers[b]);
  const found: number[] = [];
  for (let from = 0, to; from < order.length; from = to) {
    to = from + 1;
    while (to < order.length && numbers[order[to]] === numbers[order[from]]) to++;
    for (const i of order.slice(from, to)) found[i] = (from + to - 1) / 2;
  }
  return found;
}
