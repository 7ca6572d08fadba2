/**
 * The batches that a run goes through.
 *
 * @module
 */
import { TrainingError } from "../errors.ts";
import { BATCHES, checkValue, isIterable, type OptionRule, rule } from "../options.ts";
import type { AnyBatch } from "./batch.ts";

/**
 * Batches, or a function that gives those of an epoch (from 0). Arrays and functions are gone
 * through again when they end.
 */
export type TrainingData =
  | Iterable<AnyBatch>
  | AsyncIterable<AnyBatch>
  | ((epoch: number) => Iterable<AnyBatch> | AsyncIterable<AnyBatch>);

const DATA: OptionRule = rule(
  "a list or another iterable of batches, or a function that gives those of an epoch",
  (x) => isIterable(x) || typeof x === "function",
);

/**
 * Refuses what is no data.
 *
 * @throws {TrainingError} `DATASET_EMPTY`, {ValueError} `TRAIN_DATA`.
 */
export function checkData(data: TrainingData): void {
  if (Array.isArray(data) && data.length === 0) throw noBatch();
  checkValue(data, DATA, { code: "TRAIN_DATA", of: "data" });
}

/** The error for data without batches. */
export function noBatch(): TrainingError {
  return new TrainingError("DATASET_EMPTY", "The training data holds no batch.");
}

/** Batches of one epoch that an optimizer step takes together. */
export interface Window {
  /** The batches, as many as a step takes, or fewer at the end of an epoch. */
  readonly batches: readonly AnyBatch[];
  /** The first ones, which an earlier run has learned from. */
  readonly skipped: readonly AnyBatch[];
}

/**
 * The windows of all epochs. None reaches into the next epoch, as each counts with its own labels.
 *
 * @param data The batches.
 * @param options `group` is the size of a window, `skip` the number of batches that are learned
 * already, `epochs` how often data that can be gone through again are; forever by default.
 */
export async function* windowsOf(
  data: TrainingData,
  options: { readonly group: number; readonly skip: number; readonly epochs?: number },
): AsyncGenerator<Window> {
  const again = typeof data === "function" || Array.isArray(data);
  const { group, epochs = Infinity } = options;
  let left = options.skip;
  for (let epoch = 0; epoch === 0 || (again && epoch < epochs); epoch++) {
    const given = typeof data === "function" ? data(epoch) : data;
    checkValue(given, BATCHES, { code: "TRAIN_DATA", of: "data of an epoch" });
    let batches: AnyBatch[] = [], skipped: AnyBatch[] = [], count = 0;
    for await (const batch of given) {
      count++;
      if (left > 0) {
        left--;
        skipped.push(batch);
      } else batches.push(batch);
      if (batches.length < group && skipped.length < group) continue;
      yield { batches, skipped };
      [batches, skipped] = [[], []];
    }
    if (batches.length || skipped.length) yield { batches, skipped };
    if (count === 0) return;
  }
}

/**
 * Steps of so many epochs, where that can be told without going through the data: of a list, or of
 * a function that gives lists.
 */
export function countSteps(
  data: TrainingData,
  { epochs, group }: { readonly epochs: number; readonly group: number },
): number | undefined {
  let steps = 0;
  for (let epoch = 0; epoch < epochs; epoch++) {
    const batches = typeof data === "function" ? data(epoch) : data;
    if (!Array.isArray(batches)) return undefined;
    steps += Math.ceil(batches.length / group);
    if (typeof data !== "function") return steps * epochs;
  }
  return steps;
}
