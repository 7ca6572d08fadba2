/**
 * `trainSeeds`: several runs that differ by their seed, and the best of them.
 *
 * @module
 */
import type { AnyModel } from "../adapters/peft-model.ts";
import { ValueError } from "../errors.ts";
import { BOOLEAN, checkOptions, TEXT } from "../options.ts";
import { type Criterion, type EvaluatedEntry, goodness } from "./best.ts";
import type { TrainResult } from "./train.ts";

/** One run of several. */
export interface SeedRun {
  /** Its seed. */
  readonly seed: number;
  /** The evaluation of the model that it gave. */
  readonly evaluation: EvaluatedEntry;
}

/** What {@link trainSeeds} gives. */
export interface SeedSearch<M extends AnyModel> {
  /** What the best run gave. */
  readonly best: TrainResult<M>;
  /** Its seed. */
  readonly seed: number;
  /** All runs, in the order of the seeds. */
  readonly runs: readonly SeedRun[];
  /** Mean and standard deviation (of a sample) over the runs, of `loss` and of each metric. */
  readonly summary: Readonly<
    Record<string, { readonly mean: number; readonly deviation: number }>
  >;
}

/**
 * Trains once for each seed and keeps the best model, by the loss on the evaluation data or another
 * metric, the first of equal ones. A run that its signal stops ends the search.
 *
 * @param seeds One for each run.
 * @param run Trains with a seed: the adapter's start, the order of the data and dropout follow from it
 * as far as it passes it on. It needs `evalData`.
 * @param options By what runs are compared.
 * @throws {ValueError} `TRAIN_OPTIONS` where there is no seed, two are the same, or a run has no
 * evaluation.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, tinyModel, train, trainSeeds } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const data = [{ inputIds: [[1, 2, 3, 4]] }];
 * const { seed, summary } = await trainSeeds(
 *   [1, 2],
 *   (seed) =>
 *     train(getPeftModel(base, loraConfig({ r: 4 }), { seed }), data, {
 *       learningRate: 1e-2,
 *       steps: 2,
 *       seed,
 *       evalData: data,
 *     }),
 * );
 * console.log([1, 2].includes(seed), summary.loss.deviation >= 0); // true true
 * ```
 */
export async function trainSeeds<M extends AnyModel>(
  seeds: readonly number[],
  run: (seed: number) => Promise<TrainResult<M>>,
  options: Criterion = {},
): Promise<SeedSearch<M>> {
  const rules = { metricForBest: TEXT, greaterIsBetter: BOOLEAN };
  checkOptions(options, rules, { code: "TRAIN_OPTIONS", of: "trainSeeds" });
  if (seeds.length === 0 || new Set(seeds).size < seeds.length) {
    throw new ValueError("TRAIN_OPTIONS", `trainSeeds needs seeds that differ, not [${seeds}].`);
  }
  const runs: SeedRun[] = [];
  let best: { readonly result: TrainResult<M>; readonly seed: number } | undefined,
    most = -Infinity;
  for (const seed of seeds) {
    const result = await run(seed), { evaluation, stopped } = result;
    if (stopped) break;
    if (!evaluation) {
      throw new ValueError(
        "TRAIN_OPTIONS",
        "Runs with several seeds are compared by their evaluations, and there is none. Give evalData.",
      );
    }
    runs.push({ seed, evaluation });
    const value = goodness(evaluation, options);
    if (best && !(value > most)) continue;
    [best, most] = [{ result, seed }, value];
  }
  if (!best) throw new ValueError("TRAIN_OPTIONS", "No run came to its end.");
  return { best: best.result, seed: best.seed, runs, summary: summaryOf(runs) };
}

/** The measured numbers of an evaluation, the loss first. */
export function measuredIn({ evalLoss, evalMetrics }: EvaluatedEntry): Record<string, number> {
  return { loss: evalLoss, ...evalMetrics };
}

function summaryOf(runs: readonly SeedRun[]): SeedSearch<AnyModel>["summary"] {
  const all = runs.map(({ evaluation }) => measuredIn(evaluation));
  return Object.fromEntries(
    Object.keys(all[0]).map((name) => {
      const values = all.map((one) => one[name]);
      const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
      const squares = values.reduce((sum, x) => sum + (x - mean) ** 2, 0);
      const deviation = Math.sqrt(squares / Math.max(1, values.length - 1));
      return [name, { mean, deviation }];
    }),
  );
}
