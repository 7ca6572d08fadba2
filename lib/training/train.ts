/**
 * `train`: from a model and data to a trained model.
 *
 * @module
 */
import { trainableLeaves, withLeaves } from "../adapters/leaves.ts";
import type { AnyModel } from "../adapters/peft-model.ts";
import { savePretrained } from "../adapters/checkpoint/save.ts";
import { TrainingError, ValueError } from "../errors.ts";
import { isObject } from "../io/json.ts";
import {
  BOOLEAN,
  checkOptions,
  FUNCTION,
  isIterable,
  oneOf,
  type OptionRules,
  POSITIVE,
  show,
  SIGNAL,
  TEXT,
  WHOLE,
  wholeFrom,
} from "../options.ts";
import { ADAMW_RULES, type AdamWOptions } from "./adamw.ts";
import { prepareBatch, type PreparedBatch, type TrainingBatch } from "./batch.ts";
import { checkFolder, type Progress, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { evaluateWith, prepareEvaluation } from "./evaluate.ts";
import { fromVector, nothingToTrain, packLeaves } from "./packing.ts";
import { createPace, type HistoryEntry, type StepReport } from "./report.ts";
import { learningRateFactor, type Schedule, SCHEDULES } from "./schedule.ts";
import { openSession, type TrainingSession } from "./session.ts";

/**
 * Batches, or a function that gives those of an epoch (from 0). Arrays and functions are gone
 * through again when they end.
 */
export type TrainingData =
  | Iterable<TrainingBatch>
  | AsyncIterable<TrainingBatch>
  | ((epoch: number) => Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>);

/** Settings of {@link train}. */
export interface TrainOptions extends AdamWOptions {
  /** Peak learning rate. */
  readonly learningRate: number;
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

const CHECKPOINT_RULES: OptionRules<NonNullable<TrainOptions["checkpoint"]>> = {
  folder: TEXT,
  every: wholeFrom(1),
};

/** What {@link train} gives. */
export interface TrainResult<M extends AnyModel> {
  /** The trained model; the given one is unchanged. */
  readonly model: M;
  /** One entry per optimizer step, those before a resume included. */
  readonly history: readonly HistoryEntry[];
  /** `true` where the signal ended the run. */
  readonly stopped: boolean;
  /** The last checkpoint that was written. */
  readonly checkpoint?: string;
}

/**
 * Trains a model with AdamW on next-token cross-entropy: the leaves of its trainable active
 * adapters, or all parameters of a base model. The given model is not changed.
 *
 * @param model What to train.
 * @param data Batches of token ids.
 * @param options Learning rate, steps and more.
 * @throws {TrainingError} where there is nothing to train, no data, a loss, gradient or parameter
 * that is not finite, or a checkpoint that does not fit.
 * @throws {ValueError} for options and batches that cannot be.
 * @throws {FileError} where a checkpoint cannot be written, which is tried before the first step,
 * or read.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, loraConfig, train } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 8, taskType: "CAUSAL_LM" }));
 * const { model: trained, history } = await train(model, [{ inputIds: [[1, 2, 3, 4]] }], {
 *   learningRate: 1e-2,
 *   steps: 10,
 * });
 * console.log(trained.type, history[9].loss < history[0].loss); // peft true
 * ```
 */
export async function train<M extends AnyModel>(
  model: M,
  data: TrainingData,
  options: TrainOptions,
): Promise<TrainResult<M>> {
  checkTrainOptions(options);
  checkData(data);
  const { gradientAccumulation: group = 1, checkpoint, signal } = options;
  const steps = stepsOf(data, options);
  const leaves = trainableLeaves(model);
  if (leaves.size === 0) throw nothingToTrain();
  const packing = packLeaves(leaves);
  const resumed = options.resume ? await readCheckpoint(options.resume, packing) : undefined;
  let progress: Progress = resumed?.progress ??
    { step: 0, batches: 0, seed: options.seed ?? 0, history: [] };
  checkSeed(options.seed, progress.seed);
  // What is wrong with them must not come up after hours of training.
  const evaluation = options.evalData && await prepareEvaluation(model, options.evalData);
  if (checkpoint) await checkFolder(checkpoint.folder);
  using session = await openSession(model, leaves, {
    ...options,
    packing,
    dropout: options.dropout ?? true,
    accumulates: group > 1,
  });
  if (resumed) await session.write(resumed.vectors);
  let written: string | undefined;
  const lastGood = () => written ?? resumed?.folder;
  const read = async () => {
    const vectors = await session.read();
    const values = await vectors.parameters.data() as Float32Array;
    if (!values.every(Number.isFinite)) {
      throw notFinite(`What is trained is not finite after step ${progress.step}`, {
        ...progress.history.at(-1),
        step: progress.step,
        checkpoint: lastGood(),
      });
    }
    return { vectors, trained: withLeaves(model, await fromVector(packing, vectors.parameters)) };
  };
  const save = async () => {
    if (!checkpoint || written?.endsWith(`-${progress.step}`)) return;
    const { vectors, trained } = await read();
    written = await writeCheckpoint(checkpoint.folder, { progress, packing, vectors }, {
      beside: async (folder) => {
        if (trained.type === "peft") await savePretrained(trained, folder);
      },
    });
  };

  const pace = createPace();
  const source = batchesOf(data, progress.batches);
  try {
    while (progress.step < steps && !signal?.aborted) {
      const batches: PreparedBatch[] = [];
      while (batches.length < group) {
        const next = await source.next();
        if (next.done) break;
        batches.push(await prepareBatch(model, next.value));
      }
      if (batches.length === 0) {
        if (progress.batches > 0) break; // data that cannot be gone through again has ended
        throw noBatch();
      }
      const entry = await takeStep(session, batches, {
        ...options,
        seed: progress.seed,
        step: progress.step + 1,
        steps,
        firstBatch: progress.batches,
        lastCheckpoint: lastGood(),
      });
      const evaluated = evaluation &&
          (entry.step === steps || (options.evalEvery && entry.step % options.evalEvery === 0))
        ? { ...entry, evalLoss: (await evaluateWith(session, evaluation)).loss }
        : entry;
      progress = {
        ...progress,
        step: entry.step,
        batches: progress.batches + batches.length,
        history: [...progress.history, evaluated],
      };
      options.onStep?.({ ...evaluated, steps, ...pace.step(entry.tokens, steps - entry.step) });
      if (checkpoint?.every && entry.step % checkpoint.every === 0) await save();
    }
  } finally {
    await source.return?.(undefined);
  }
  const stopped = signal?.aborted === true && progress.step < steps;
  if (stopped) await save();
  const { trained } = await read();
  return { model: trained, history: progress.history, stopped, checkpoint: written };
}

async function takeStep(
  session: TrainingSession,
  batches: readonly PreparedBatch[],
  at: TrainOptions & {
    readonly seed: number;
    readonly step: number;
    readonly steps: number;
    readonly firstBatch: number;
    readonly lastCheckpoint: string | undefined;
  },
): Promise<HistoryEntry> {
  const targets = batches.reduce((n, b) => n + b.targets, 0);
  if (targets === 0) {
    throw new TrainingError(
      "LABELS_EMPTY",
      `No label counts in the batches of step ${at.step} (from batch ${at.firstBatch}): all are −100 or padding.`,
    );
  }
  const learningRate = at.learningRate *
    learningRateFactor(at.schedule ?? "constant", {
      step: at.step - 1,
      steps: at.steps,
      warmupSteps: at.warmupSteps,
    });
  let loss = 0, gradientNorm = 0;
  for (const [i, batch] of batches.entries()) {
    const last = i === batches.length - 1;
    // A different mask for each batch of the run, and the same ones again after a resume.
    const run = { lossScale: 1 / targets, seed: dropoutSeed(at.seed, at.firstBatch + i) };
    if (last) {
      const out = await session.update(batch, { ...run, step: at.step, learningRate });
      loss += out.loss;
      gradientNorm = out.gradientNorm;
    } else {
      loss += await session.accumulate(batch, run);
    }
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) {
      const [what, value] = Number.isFinite(loss) ? ["gradient", gradientNorm] : ["loss", loss];
      throw notFinite(`The ${what} of batch ${at.firstBatch + i} at step ${at.step} is ${value}`, {
        step: at.step,
        batch: at.firstBatch + i,
        learningRate,
        loss,
        gradientNorm,
        checkpoint: at.lastCheckpoint,
      });
    }
  }
  return {
    step: at.step,
    loss,
    learningRate,
    gradientNorm,
    tokens: batches.reduce((n, b) => n + b.tokens, 0),
  };
}

function dropoutSeed(seed: number, batch: number): number {
  return (Math.imul(seed, 0x9e3779b1) + batch) | 0;
}

function notFinite(
  what: string,
  at: {
    readonly step: number;
    readonly batch?: number;
    readonly learningRate?: number;
    readonly loss?: number;
    readonly gradientNorm?: number;
    readonly checkpoint: string | undefined;
  },
): TrainingError {
  return new TrainingError(
    "NOT_FINITE",
    `${what} (learning rate ${at.learningRate}). Training stopped; ` +
      (at.checkpoint
        ? `the last good checkpoint is ${at.checkpoint}.`
        : "no checkpoint of this run had been written.") +
      " Try a lower learning rate, warm-up or maxGradientNorm, or look at that batch.",
    { ...at },
  );
}

function stepsOf(data: TrainingData, options: TrainOptions): number {
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

function checkTrainOptions(options: TrainOptions): void {
  const about = { code: "TRAIN_OPTIONS", of: "train" };
  checkOptions(options, RULES, about);
  if (options.learningRate === undefined) {
    throw new ValueError("TRAIN_OPTIONS", "train needs a learningRate, such as 2e-4 for a LoRA.");
  }
  if (options.checkpoint) checkOptions(options.checkpoint, CHECKPOINT_RULES, about);
  if (options.evalEvery !== undefined && !options.evalData) {
    throw new ValueError("TRAIN_OPTIONS", "evalEvery is given, but no evalData to evaluate on.");
  }
}

function checkData(data: TrainingData): void {
  if (Array.isArray(data) && data.length === 0) throw noBatch();
  if (!isIterable(data) && typeof data !== "function") throw noData(data);
}

function noData(data: unknown): ValueError {
  return new ValueError(
    "TRAIN_DATA",
    `Training needs batches: a list or another iterable of them, or a function of the epoch; found ${
      show(data)
    }.`,
  );
}

function noBatch(): TrainingError {
  return new TrainingError("DATASET_EMPTY", "The training data holds no batch.");
}

/** Data in another order would give other losses without a word. */
function checkSeed(given: number | undefined, recorded: number): void {
  if (given === undefined || given === recorded) return;
  throw new TrainingError(
    "RESUME_MISMATCH",
    `The run to resume was started with the seed ${recorded}, not ${given}. Resume with that one.`,
    { given, recorded },
  );
}

/** Batches one after the other, from number `skip` on. */
async function* batchesOf(data: TrainingData, skip: number): AsyncGenerator<TrainingBatch> {
  const again = typeof data === "function" || Array.isArray(data);
  let left = skip;
  for (let epoch = 0; epoch === 0 || again; epoch++) {
    let count = 0;
    const batches = typeof data === "function" ? data(epoch) : data;
    if (!isIterable(batches)) throw noData(batches);
    for await (const batch of batches) {
      count++;
      if (left > 0) left--;
      else yield batch;
    }
    if (count === 0) return;
  }
}
