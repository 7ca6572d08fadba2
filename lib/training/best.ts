/**
 * Which evaluation of a run was the best.
 *
 * @module
 */
import { nearestHint, ValueError } from "../errors.ts";
import type { HistoryEntry } from "./report.ts";
import type { TrainOptions } from "./train-options.ts";

/** An entry of a history at which there was an evaluation. */
export type EvaluatedEntry = HistoryEntry & { readonly evalLoss: number };

/** By what evaluations are compared. */
export type Criterion = Pick<TrainOptions, "metricForBest" | "greaterIsBetter">;

/** What is smaller where it is better. */
const ERRORS: readonly string[] = ["loss", "mse", "mae"];

/**
 * How good an evaluation was: the larger, the better.
 *
 * @throws {ValueError} `TRAIN_OPTIONS` where there is no such metric.
 */
export function goodness(
  { evalLoss, evalMetrics = {} }: Pick<EvaluatedEntry, "evalLoss" | "evalMetrics">,
  { metricForBest: name = "loss", greaterIsBetter = !ERRORS.includes(name) }: Criterion,
): number {
  const found: Readonly<Record<string, number>> = { loss: evalLoss, ...evalMetrics };
  if (!Object.hasOwn(found, name)) {
    throw new ValueError(
      "TRAIN_OPTIONS",
      `metricForBest is "${name}"${nearestHint(name, Object.keys(found))}, which is not measured; ${
        Object.keys(found).join(", ")
      } are.`,
      { found: Object.keys(found) },
    );
  }
  return greaterIsBetter ? found[name] : -found[name];
}

/** The best evaluation, the first of equal ones. */
export function bestEntry(
  history: readonly HistoryEntry[],
  criterion: Criterion,
): EvaluatedEntry | undefined {
  return evaluations(history).reduce<EvaluatedEntry | undefined>(
    (best, entry) => best && goodness(best, criterion) >= goodness(entry, criterion) ? best : entry,
    undefined,
  );
}

/** Whether the last evaluations brought nothing. */
export function isStuck(
  history: readonly HistoryEntry[],
  { patience, threshold = 0 }: NonNullable<TrainOptions["earlyStopping"]>,
  criterion: Criterion,
): boolean {
  let best = -Infinity, since = 0;
  for (const entry of evaluations(history)) {
    const value = goodness(entry, criterion);
    since = value - best > threshold ? 0 : since + 1;
    best = Math.max(best, value);
  }
  return since >= patience;
}

/** The entries at which there was an evaluation. */
export function evaluations(history: readonly HistoryEntry[]): EvaluatedEntry[] {
  return history.filter((entry): entry is EvaluatedEntry => entry.evalLoss !== undefined);
}
