/**
 * The settings of `train`.
 *
 * @module
 */
import type { TrainingRule } from "../adapters/training-rule.ts";
import { ValueError } from "../errors.ts";
import { isObject } from "../io/json.ts";
import {
  BOOLEAN,
  checkOptions,
  FUNCTION,
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
import type { Optimizer } from "./optimizer.ts";
import type { StepReport } from "./report.ts";
import { type Schedule, SCHEDULES } from "./schedule.ts";
import type { TrainingData } from "./training-data.ts";

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
  /** Passes over the data, where `steps` is not given and the data is an array. */
  readonly epochs?: number;
  /** Course of the learning rate; `constant` by default. */
  readonly schedule?: Schedule;
  /** Steps over which the learning rate rises from 0. */
  readonly warmupSteps?: number;
  /** Batches per optimizer step; 1 by default. Each label of them has equal weight. */
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
  /** Evaluates every so many steps, and after the last. */
  readonly evalEvery?: number;
  /**
   * Where and how often (in steps) to write checkpoints; one more is written when the signal stops
   * the run.
   */
  readonly checkpoint?: { readonly folder: string; readonly every?: number };
  /** A checkpoint, or a run's folder, to go on from. The data begins where the run left off. */
  readonly resume?: string;
  /** Ends the run after the step at which it is aborted. */
  readonly signal?: AbortSignal;
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
  evalEvery: wholeFrom(1),
  checkpoint: { must: "an object with a folder", holds: (x) => isObject(x) && "folder" in x },
  resume: TEXT,
  signal: SIGNAL,
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
    checkOptions(options.checkpoint, {
      folder: TEXT,
      every: wholeFrom(1),
    }, about);
  }
  if (options.evalEvery !== undefined && !options.evalData) {
    throw new ValueError("TRAIN_OPTIONS", "evalEvery is given, but no evalData to evaluate on.");
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
  const { epochs, schedule = "constant" } = options;
  if (options.steps !== undefined) return options.steps;
  if (Array.isArray(data)) {
    return Math.ceil(data.length / (options.gradientAccumulation ?? 1)) * (epochs ?? 1);
  }
  if (epochs === undefined && schedule === "constant") return Infinity;
  throw new ValueError(
    "TRAIN_OPTIONS",
    `${
      epochs === undefined ? `The schedule "${schedule}"` : "epochs"
    } needs data whose length is known: give an array of batches, or steps.`,
  );
}
