/**
 * The batches that a run goes through.
 *
 * @module
 */
import { TrainingError } from "../errors.ts";
import { BATCHES, checkValue, isIterable, type OptionRule, rule } from "../options.ts";
import type { TrainingBatch } from "./batch.ts";

/**
 * Batches, or a function that gives those of an epoch (from 0). Arrays and functions are gone
 * through again when they end.
 */
export type TrainingData =
  | Iterable<TrainingBatch>
  | AsyncIterable<TrainingBatch>
  | ((epoch: number) => Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>);

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

/** Batches one after the other, from number `skip` on. */
export async function* batchesOf(data: TrainingData, skip: number): AsyncGenerator<TrainingBatch> {
  const again = typeof data === "function" || Array.isArray(data);
  let left = skip;
  for (let epoch = 0; epoch === 0 || again; epoch++) {
    let count = 0;
    const batches = typeof data === "function" ? data(epoch) : data;
    checkValue(batches, BATCHES, { code: "TRAIN_DATA", of: "data of an epoch" });
    for await (const batch of batches) {
      count++;
      if (left > 0) left--;
      else yield batch;
    }
    if (count === 0) return;
  }
}
