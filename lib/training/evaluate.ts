/**
 * `evaluate`: the loss of a model on data.
 *
 * @module
 */
import type { AnyModel } from "../adapters/peft-model.ts";
import { TrainingError, ValueError } from "../errors.ts";
import { isIterable, show } from "../options.ts";
import { prepareBatch, type PreparedBatch, type TrainingBatch } from "./batch.ts";
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
 * ```ts
 * import { createModel, evaluate } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = model.device;
 * const { targets, perplexity } = await evaluate(model, [{ inputIds: [[1, 2, 3, 4]] }]);
 * console.log(targets, perplexity > 1); // 3 true
 * ```
 */
export async function evaluate(
  model: AnyModel,
  batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
): Promise<Evaluation> {
  const leaves = new Map();
  const packing = packLeaves(leaves);
  using session = await openSession(model, leaves, { packing, dropout: false, accumulates: false });
  return await evaluateWith(session, prepared(model, batches));
}

/** The same in a session that is open, with the parameters as they are there. */
export async function evaluateWith(
  session: TrainingSession,
  batches: Iterable<PreparedBatch> | AsyncIterable<PreparedBatch>,
): Promise<Evaluation> {
  let total = 0, targets = 0;
  for await (const batch of batches) {
    total += await session.evaluate(batch);
    targets += batch.targets;
  }
  if (targets === 0) throw noLabel();
  return { loss: total / targets, perplexity: Math.exp(total / targets), targets };
}

/**
 * Checks data that will be evaluated on later.
 *
 * @throws {TrainingError} `DATASET_EMPTY`, and what {@link prepareBatch} throws.
 */
export async function prepareEvaluation(
  model: AnyModel,
  batches: readonly TrainingBatch[],
): Promise<readonly PreparedBatch[]> {
  const all = await Array.fromAsync(prepared(model, batches));
  if (!all.some(({ targets }) => targets > 0)) throw noLabel();
  return all;
}

async function* prepared(
  model: AnyModel,
  batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
): AsyncGenerator<PreparedBatch> {
  if (!isIterable(batches)) {
    throw new ValueError(
      "TRAIN_DATA",
      `Evaluation needs a list or another iterable of batches; found ${show(batches)}.`,
    );
  }
  for await (const batch of batches) yield await prepareBatch(model, batch);
}

function noLabel(): TrainingError {
  return new TrainingError(
    "DATASET_EMPTY",
    "The evaluation data holds no label that counts: it is empty, or all its labels are −100.",
  );
}
