/**
 * The settings of `train`.
 *
 * @module
 */
import type { AnyModel } from "../adapters/peft-model.ts";
import type { TrainingRule } from "../adapters/training-rule.ts";
import { ValueError } from "../errors.ts";
import { isObject } from "../io/json.ts";
import {
  BOOLEAN,
  checkOptions,
  FUNCTION,
  NOT_NEGATIVE,
  oneOf,
  type OptionRules,
  POSITIVE,
  SIGNAL,
  TEXT,
  WHOLE,
  wholeFrom,
} from "../options.ts";
import type { Objective } from "../tasks/objective.ts";
import { adamW, ADAMW_RULES, type AdamWOptions } from "./adamw.ts";
import { OBJECTIVE, type TrainingBatch } from "./batch.ts";
import { MEASURE, type Measure } from "./evaluate.ts";
import type { Optimizer } from "./optimizer.ts";
import type { HistoryEntry, StepReport } from "./report.ts";
import { type Schedule, SCHEDULES } from "./schedule.ts";
import { countSteps, type TrainingData } from "./training-data.ts";

/** Settings of {@link train}. Those of AdamW stand for `optimizer: adamW({ … })`. */
export interface TrainOptions extends AdamWOptions {
  /** Peak learning rate. */
  readonly learningRate: number;
  /** What the model is trained for; the labels of its task by default. */
  readonly objective?: Objective;
  /** By what rule gradients change parameters; AdamW by default. */
  readonly optimizer?: Optimizer;
  /** What steps follow beside objective and optimizer. */
  readonly rules?: readonly TrainingRule[];
  /** Optimizer steps; by default one pass over the data. */
  readonly steps?: number;
  /**
   * Passes over the data, where `steps` is not given; more than one of an array, or of a function
   * that gives the batches of each.
   */
  readonly epochs?: number;
  /** Course of the learning rate; `constant` by default. */
  readonly schedule?: Schedule;
  /** Steps over which the learning rate rises from 0. */
  readonly warmupSteps?: number;
  /**
   * Batches per optimizer step; 1 by default. Each label of them has equal weight. The last step of
   * an epoch takes those that are left.
   */
  readonly gradientAccumulation?: number;
  /** Gradients of a larger norm are scaled down to it; off by default. */
  readonly maxGradientNorm?: number;
  /**
   * Computes activations again in the backward pass, which saves memory and costs a third more
   * time; off by default.
   */
  readonly gradientCheckpointing?: boolean;
  /** Whether dropout is on, the adapter's and that of the base's config; true by default. */
  readonly dropout?: boolean;
  /** Seed of dropout; 0 by default. */
  readonly seed?: number;
  /** Data to evaluate on. */
  readonly evalData?: readonly TrainingBatch[];
  /** What is measured on it beside the loss; what is usual for the task by default. */
  readonly metrics?: Measure;
  /**
   * The metric by which the best evaluation is told for `loadBest` and `earlyStopping`; `loss` by
   * default.
   */
  readonly metricForBest?: string;
  /** Whether more of it is better; by default of all but `loss`, `mse` and `mae`. */
  readonly greaterIsBetter?: boolean;
  /** Evaluates every so many steps, and after the last. */
  readonly evalEvery?: number;
  /**
   * Gives the model as it was at its best evaluation, where its loss on `evalData` was smallest
   * unless `metricForBest` says otherwise, not as it is after the last step; with checkpoints, each best one is written and kept.
   */
  readonly loadBest?: boolean;
  /**
   * Ends the run after so many evaluations in a row (`patience`) that are not better than the best
   * one before by more than `threshold` (0 by default).
   */
  readonly earlyStopping?: { readonly patience: number; readonly threshold?: number };
  /**
   * Where and how often (in steps) to write checkpoints; one more is written after the last step, and
   * when the signal stops the run. `limit` is how many are kept: the latest ones, and the best where `loadBest` is set.
   */
  readonly checkpoint?: {
    readonly folder: string;
    readonly every?: number;
    readonly limit?: number;
  };
  /**
   * A checkpoint, or a run's folder, to go on from. The data begins where the run left off; what it
   * has learned from must be the same, in the same order, and so must the adapter's config.
   */
  readonly resume?: string;
  /** Goes on also where data, order, batches or the adapter's config are others than before. */
  readonly resumeAnyway?: boolean;
  /** Ends the run after the step at which it is aborted. */
  readonly signal?: AbortSignal;
  /** Is told about each evaluation, with the model as it is then, and waited for. */
  readonly onEvaluation?: (report: HistoryEntry, model: AnyModel) => void | Promise<void>;
  /** Is told about each step. */
  readonly onStep?: (report: StepReport) => void;
}

const RULES: OptionRules<TrainOptions> = {
  learningRate: POSITIVE,
  objective: OBJECTIVE,
  optimizer: {
    must: "an optimizer, such as adamW() gives",
    holds: (x) => isObject(x) && "init" in x && "update" in x,
  },
  rules: {
    must: "a list of rules, each with a name of its own",
    holds: (x) =>
      Array.isArray(x) && x.every((rule) => isObject(rule) && TEXT.holds(rule.name)) &&
      new Set(x.map(({ name }) => name)).size === x.length,
  },
  steps: wholeFrom(0),
  epochs: wholeFrom(1),
  schedule: oneOf(SCHEDULES),
  warmupSteps: wholeFrom(0),
  gradientAccumulation: wholeFrom(1),
  maxGradientNorm: POSITIVE,
  gradientCheckpointing: BOOLEAN,
  dropout: BOOLEAN,
  seed: WHOLE,
  evalData: { must: "a list of batches", holds: Array.isArray },
  metrics: MEASURE,
  metricForBest: TEXT,
  greaterIsBetter: BOOLEAN,
  evalEvery: wholeFrom(1),
  loadBest: BOOLEAN,
  earlyStopping: {
    must: "an object with a patience",
    holds: (x) => isObject(x) && "patience" in x,
  },
  checkpoint: { must: "an object with a folder", holds: (x) => isObject(x) && "folder" in x },
  resume: TEXT,
  resumeAnyway: BOOLEAN,
  signal: SIGNAL,
  onEvaluation: FUNCTION,
  onStep: FUNCTION,
  ...ADAMW_RULES,
};

/**
 * Refuses settings that cannot be.
 *
 * @throws {ValueError} `TRAIN_OPTIONS`.
 */
export function checkTrainOptions(options: TrainOptions): void {
  const about = { code: "TRAIN_OPTIONS", of: "train" };
  checkOptions(options, RULES, about);
  if (options.learningRate === undefined) {
    throw new ValueError("TRAIN_OPTIONS", "train needs a learningRate, such as 2e-4 for a LoRA.");
  }
  const own = Object.entries(adamWOptions(options)).find(([, value]) => value !== undefined);
  if (options.optimizer && own) {
    throw new ValueError(
      "TRAIN_OPTIONS",
      `${own[0]} is a setting of AdamW, and an optimizer is given: set it there, as in adamW({ ${
        own[0]
      }: ${own[1]} }).`,
    );
  }
  if (options.checkpoint) {
    const rules = { folder: TEXT, every: wholeFrom(1), limit: wholeFrom(1) };
    checkOptions(options.checkpoint, rules, about);
  }
  if (options.earlyStopping) {
    checkOptions(options.earlyStopping, {
      patience: wholeFrom(1),
      threshold: NOT_NEGATIVE,
    }, about);
  }
  for (
    const name of [
      "evalEvery",
      "loadBest",
      "earlyStopping",
      "onEvaluation",
      "metrics",
      "metricForBest",
    ] as const
  ) {
    if (!options[name] || options.evalData) continue;
    throw new ValueError("TRAIN_OPTIONS", `${name} is given, but no evalData to evaluate on.`);
  }
}

/** The optimizer that settings ask for. */
export function optimizerOf(options: TrainOptions): Optimizer {
  return options.optimizer ?? adamW(adamWOptions(options));
}

function adamWOptions({ beta1, beta2, epsilon, weightDecay }: AdamWOptions): AdamWOptions {
  return { beta1, beta2, epsilon, weightDecay };
}

/**
 * How many steps a run takes; infinitely many where data without a length decides.
 *
 * @throws {ValueError} `TRAIN_OPTIONS` where settings need a length that the data does not have.
 */
export function stepsOf(data: TrainingData, options: TrainOptions): number {
  const { epochs, schedule = "constant", gradientAccumulation: group = 1 } = options;
  if (options.steps !== undefined) return options.steps;
  const again = typeof data === "function" || Array.isArray(data);
  if (epochs !== undefined && epochs > 1 && !again) {
    throw new ValueError(
      "TRAIN_OPTIONS",
      `${epochs} epochs need data that can be gone through again: give an array of batches, or a function of the epoch.`,
    );
  }
  // A function without a number of epochs may have no end.
  const steps = typeof data === "function" && epochs === undefined
    ? undefined
    : countSteps(data, { epochs: epochs ?? 1, group });
  if (steps !== undefined) return steps;
  if (schedule === "constant") return Infinity;
  throw new ValueError(
    "TRAIN_OPTIONS",
    `The schedule "${schedule}" needs data whose length is known: give an array of batches, a function that gives arrays with epochs, or steps.`,
  );
}
