/**
 * Batches as training and evaluation take them.
 *
 * @module
 */
import {
  type ForwardInputs,
  objectiveOf,
  type OwnInputs,
  prepareBatch,
  type PreparedBatch,
} from "../adapters/batch.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import type { TokenBatch } from "../adapters/token-batch.ts";
import { UnsupportedError } from "../errors.ts";
import { isObject } from "../io/json.ts";
import type { OptionRule } from "../options.ts";
import type { Objective } from "../tasks/objective.ts";

/**
 * Rows of equal length. Of a causal language model labels are by default the ids themselves, but for
 * padding.
 */
export interface TrainingBatch extends Omit<ForwardInputs, "adapterNames"> {
  /**
   * Number of the sample that a token of a packed row belongs to, from 1, and 0 for padding [B, T];
   * stands for the mask. Positions count from 0 in each sample.
   */
  readonly segments?: TokenBatch;
}

/** A batch, also of what a model or an objective of one's own takes. */
export type AnyBatch = TrainingBatch | OwnInputs;

/** What an objective is. */
export const OBJECTIVE: OptionRule = {
  must: "an objective, such as nextToken",
  holds: (x) => isObject(x) && "prepare" in x && "loss" in x,
};

/**
 * What a model is trained for where the caller does not say.
 *
 * @throws {UnsupportedError} `OBJECTIVE` where its task has no labels.
 */
export function trainingObjective(model: AnyModel, given?: Objective): Objective {
  const objective = given ?? objectiveOf(model);
  if (objective) return objective;
  throw new UnsupportedError(
    "OBJECTIVE",
    `A model of the family ${
      baseOf(model).architecture.name
    } without a head has no labels to learn from. Give an objective, or load it with another taskType.`,
  );
}

/** Checks a batch to learn from, or to evaluate on, and fills in what it leaves out. */
export function prepareTraining(
  model: AnyModel,
  batch: AnyBatch,
  objective: Objective,
): Promise<PreparedBatch> {
  return prepareBatch(model, batch, {
    objective,
    learns: true,
    packs: true,
    code: "BATCH_PART",
    of: "A batch",
  });
}
