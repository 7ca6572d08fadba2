/**
 * `evaluate`: the loss of a model on data.
 *
 * @module
 */
import type { PreparedBatch } from "../adapters/batch.ts";
import type { AnyModel } from "../adapters/peft-model.ts";
import { TrainingError } from "../errors.ts";
import { BATCHES, checkOptions, checkValue } from "../options.ts";
import type { Objective } from "../tasks/objective.ts";
import { type AnyBatch, OBJECTIVE, prepareTraining, trainingObjective } from "./batch.ts";
import { packLeaves } from "./packing.ts";
import { openSession, type TrainingSession } from "./session.ts";

/** What {@link evaluate} gives. */
export interface Evaluation {
  /** Mean loss per label; of a language model the cross-entropy. */
  readonly loss: number;
  /** e to the loss. */
  readonly perplexity: number;
  /** Number of labels that counted. */
  readonly targets: number;
  /** What else the objective measures per label, such as `accuracy` where there are classes. */
  readonly metrics: Readonly<Record<string, number>>;
}

/**
 * Mean loss of a model over batches, each label with equal weight, without dropout.
 *
 * @throws {TrainingError} where the data holds no label that counts.
 * @throws {ValueError} `TRAIN_OPTIONS` for another option, or what is no objective.
 *
 * @example
 * ```ts
 * import { evaluate, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * const { targets, perplexity } = await evaluate(model, [{ inputIds: [[1, 2, 3, 4]] }]);
 * console.log(targets, perplexity > 1); // 3 true
 * ```
 */
export async function evaluate(
  model: AnyModel,
  batches: Iterable<AnyBatch> | AsyncIterable<AnyBatch>,
  options: { readonly objective?: Objective } = {},
): Promise<Evaluation> {
  checkOptions(options, { objective: OBJECTIVE }, { code: "TRAIN_OPTIONS", of: "evaluate" });
  const objective = trainingObjective(model, options.objective);
  const none = new Map();
  using session = await openSession(model, none, { objective, packing: packLeaves(none) });
  return await evaluateWith(session, prepared(model, batches, objective));
}

/** The same in a session that is open, with the parameters as they are there. */
export async function evaluateWith(
  session: TrainingSession,
  batches: Iterable<PreparedBatch> | AsyncIterable<PreparedBatch>,
): Promise<Evaluation> {
  const sums: Record<string, number> = {};
  let targets = 0;
  for await (const batch of batches) {
    for (const [name, sum] of Object.entries(await session.evaluate(batch))) {
      sums[name] = (sums[name] ?? 0) + sum;
    }
    targets += batch.count;
  }
  if (targets === 0) throw noLabel();
  const { loss, ...metrics } = Object.fromEntries(
    Object.entries(sums).map(([name, sum]) => [name, sum / targets]),
  );
  return { loss, perplexity: Math.exp(loss), targets, metrics };
}

/**
 * Checks data that will be evaluated on later.
 *
 * @throws {TrainingError} `DATASET_EMPTY`, and what {@link prepareTraining} throws.
 */
export async function prepareEvaluation(
  model: AnyModel,
  batches: readonly AnyBatch[],
  objective: Objective,
): Promise<readonly PreparedBatch[]> {
  const all = await Array.fromAsync(prepared(model, batches, objective));
  if (!all.some(({ count }) => count > 0)) throw noLabel();
  return all;
}

async function* prepared(
  model: AnyModel,
  batches: Iterable<AnyBatch> | AsyncIterable<AnyBatch>,
  objective: Objective,
): AsyncGenerator<PreparedBatch> {
  checkValue(batches, BATCHES, { code: "TRAIN_DATA", of: "batches" });
  for await (const batch of batches) yield await prepareTraining(model, batch, objective);
}

function noLabel(): TrainingError {
  return new TrainingError(
    "DATASET_EMPTY",
    "The evaluation data holds no label that counts: it is empty, or all its labels are −100.",
  );
}
