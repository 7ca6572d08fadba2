/**
 * `evaluate`: the loss of a model on data.
 *
 * @module
 */
import type { AnyModel } from "../adapters/peft-model.ts";
import { TrainingError } from "../errors.ts";
import { prepareBatch, type TrainingBatch } from "./batch.ts";
import { packLeaves } from "./packing.ts";
import { openSession, type TrainingSession } from "./session.ts";

/** What {@link evaluate} gives. */
export interface Evaluation {
  /** Mean cross-entropy per label. */
  readonly loss: number;
  /** e to the loss. */
  readonly perplexity: number;
  /** Number of labels that counted. */
  readonly targets: number;
}

/**
 * Mean loss of a model over batches, each label with equal weight, without dropout.
 *
 * @throws {TrainingError} where the data holds no label that counts.
 *
 * @example
 * ```ts ignore
 * import { evaluate } from "@graft/peft";
 * const { loss, perplexity } = await evaluate(model, [{ inputIds: [[1, 2, 3, 4]] }]);
 * ```
 */
export async function evaluate(
  model: AnyModel,
  batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
): Promise<Evaluation> {
  const leaves = new Map();
  const packing = packLeaves(leaves);
  using session = await openSession(model, leaves, { packing, dropout: false, accumulates: false });
  return await evaluateWith(session, model, batches);
}

/** The same in a session that is open, with the parameters as they are there. */
export async function evaluateWith(
  session: TrainingSession,
  model: AnyModel,
  batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
): Promise<Evaluation> {
  let total = 0, targets = 0;
  for await (const given of batches) {
    const batch = await prepareBatch(model, given);
    total += await session.evaluate(batch);
    targets += batch.targets;
  }
  if (targets === 0) {
    throw new TrainingError(
      "DATASET_EMPTY",
      "The evaluation data holds no label that counts: it is empty, or all its labels are −100.",
    );
  }
  return { loss: total / targets, perplexity: Math.exp(total / targets), targets };
}
