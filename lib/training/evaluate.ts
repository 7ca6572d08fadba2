/**
 * `evaluate`: the loss of a model on data, and what else is measured.
 *
 * @module
 */
import type { PreparedBatch } from "../adapters/batch.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { TrainingError } from "../errors.ts";
import { isObject } from "../io/json.ts";
import { BATCHES, checkOptions, checkValue, type OptionRule } from "../options.ts";
import type { EvaluatedBatch, Metrics, Objective, Values } from "../tasks/objective.ts";
import { OBJECTIVE, prepareTraining, type TrainingBatch, trainingObjective } from "./batch.ts";
import { packLeaves } from "./packing.ts";
import type { StepOptions } from "./step-program.ts";
import { onHost, openSession, type TrainingSession } from "./session.ts";

/** What {@link evaluate} gives. */
export interface Evaluation {
  /** Mean loss per label; of a language model the cross-entropy. */
  readonly loss: number;
  /** e to the loss. */
  readonly perplexity: number;
  /** Number of labels that counted. */
  readonly targets: number;
  /** What else was measured: what is usual for the task, such as `accuracy`, or what was asked for. */
  readonly metrics: Metrics;
}

/** What is measured over an evaluation, in place of what is usual for the task. */
export interface Measure {
  /** The model's outputs that it looks at; none by default. */
  readonly outputs?: readonly string[];
  /**
   * Measures.
   *
   * @param batches Outputs and labels of the batches, in their order.
   * @param model Gives the model as it is then, for those who have it write or embed something.
   */
  measure(
    batches: readonly EvaluatedBatch[],
    model: () => AnyModel | Promise<AnyModel>,
  ): Metrics | Promise<Metrics>;
}

/** What a measure is. */
export const MEASURE: OptionRule = {
  must: "an object with a function measure",
  holds: (x) => isObject(x) && typeof x.measure === "function",
};

/** What is traced for a measure, and the measure: what is usual for the objective by default. */
export function measureOf(
  model: AnyModel,
  objective: Objective,
  given?: Measure,
): Pick<Measure, "measure"> & Pick<StepOptions, "measured"> {
  const named = (names: readonly string[] = []) => (outputs: Values) =>
    Object.fromEntries(names.map((name) => [name, outputs[name]]));
  if (given) return { measure: given.measure, measured: named(given.outputs) };
  const { metrics, measured = named(objective.outputs) } = objective;
  if (!metrics) return { measure: () => ({}) };
  return { measure: (batches) => metrics(batches, baseOf(model).config), measured };
}

/**
 * Mean loss of a model over batches, each label with equal weight, without dropout, and what is
 * usual for its task: for classes accuracy, F1 and Matthews' correlation, for numbers errors and
 * correlations, for entities precision, recall and F1.
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
  batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
  options: { readonly objective?: Objective; readonly metrics?: Measure } = {},
): Promise<Evaluation> {
  const rules = { objective: OBJECTIVE, metrics: MEASURE };
  checkOptions(options, rules, { code: "TRAIN_OPTIONS", of: "evaluate" });
  const objective = trainingObjective(model, options.objective);
  const measure = measureOf(model, objective, options.metrics);
  const none = new Map();
  using session = await openSession(model, none, {
    objective,
    packing: packLeaves(none),
    measured: measure.measured,
  });
  const all = prepared(model, batches, objective);
  return await evaluateWith(session, all, { measure, model: () => model });
}

/** The same in a session that is open, with the parameters as they are there. */
export async function evaluateWith(
  session: TrainingSession,
  batches: Iterable<PreparedBatch> | AsyncIterable<PreparedBatch>,
  { measure, model }: {
    readonly measure: Pick<Measure, "measure">;
    readonly model: () => AnyModel | Promise<AnyModel>;
  },
): Promise<Evaluation> {
  const evaluated: EvaluatedBatch[] = [];
  let sum = 0, targets = 0;
  for await (const batch of batches) {
    const { loss, outputs } = await session.evaluate(batch);
    sum += loss;
    targets += batch.count;
    evaluated.push({
      outputs,
      labels: await onHost(batch.labels ?? {}),
      virtual: batch.virtual.place === "embeddings" ? batch.virtual.count : 0,
    });
  }
  if (targets === 0) throw noLabel();
  const loss = sum / targets;
  return {
    loss,
    perplexity: Math.exp(loss),
    targets,
    metrics: await measure.measure(evaluated, model),
  };
}

/**
 * Checks data that will be evaluated on later.
 *
 * @throws {TrainingError} `DATASET_EMPTY`, and what {@link prepareTraining} throws.
 */
export async function prepareEvaluation(
  model: AnyModel,
  batches: readonly TrainingBatch[],
  objective: Objective,
): Promise<readonly PreparedBatch[]> {
  const all = await Array.fromAsync(prepared(model, batches, objective));
  if (!all.some(({ count }) => count > 0)) throw noLabel();
  return all;
}

async function* prepared(
  model: AnyModel,
  batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
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
