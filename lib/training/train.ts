/**
 * `train`: from a model and data to a trained model.
 *
 * @module
 */
import type { PreparedBatch } from "../adapters/batch.ts";
import { savePretrained } from "../adapters/checkpoint/save.ts";
import { trainableLeaves, withLeaves } from "../adapters/leaves.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { methodRules } from "../adapters/training-rule.ts";
import { TrainingError } from "../errors.ts";
import { prepareTraining, trainingObjective } from "./batch.ts";
import { checkFolder, type Progress, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { evaluateWith, prepareEvaluation } from "./evaluate.ts";
import { packFor } from "./optimizer.ts";
import { nothingToTrain } from "./packing.ts";
import { createPace, type HistoryEntry } from "./report.ts";
import { learningRateFactor } from "./schedule.ts";
import { openSession, type TrainingSession } from "./session.ts";
import { savedShapes } from "./state.ts";
import { checkTrainOptions, optimizerOf, stepsOf, type TrainOptions } from "./train-options.ts";
import { batchesOf, checkData, noBatch, type TrainingData } from "./training-data.ts";

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
 * Trains a model for its task, or for another objective: the leaves of its trainable active adapters,
 * or all parameters of a base model. The given model is not changed.
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
 * import { getPeftModel, loraConfig, tinyModel, train } from "@graft/peft";
 * const base = await tinyModel();
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
  const rules = [...methodRules(model), ...options.rules ?? []];
  const optimizer = optimizerOf(options);
  const packing = packFor(optimizer, baseOf(model), leaves);
  const objective = trainingObjective(model, options.objective);
  const run = { ...options, objective, rules, packing, optimizer, accumulates: group > 1 };
  const resumed = options.resume
    ? await readCheckpoint(options.resume, savedShapes(run))
    : undefined;
  let progress: Progress = resumed?.progress ??
    { step: 0, batches: 0, seed: options.seed ?? 0, history: [] };
  checkSeed(options.seed, progress.seed);
  // What is wrong with them must not come up after hours of training.
  const evaluation = options.evalData &&
    await prepareEvaluation(model, options.evalData, objective);
  if (checkpoint) await checkFolder(checkpoint.folder);
  using session = await openSession(model, leaves, { ...run, dropout: options.dropout ?? true });
  const { state } = session;
  if (resumed) await state.write(resumed.state);
  let written: string | undefined;
  const lastGood = () => written ?? resumed?.folder;
  const read = async () => {
    const leaves = await state.leaves();
    for (const leaf of leaves.values()) {
      if ((await leaf.data() as Float32Array).every(Number.isFinite)) continue;
      throw notFinite(`What is trained is not finite after step ${progress.step}`, {
        ...progress.history.at(-1),
        step: progress.step,
        checkpoint: lastGood(),
      });
    }
    let trained: AnyModel = withLeaves(model, leaves);
    for (const rule of rules) {
      trained = await rule.finish?.(trained, await state.of(rule).state()) ?? trained;
    }
    return trained as M;
  };
  const save = async () => {
    if (!checkpoint || written?.endsWith(`-${progress.step}`)) return;
    const trained = await read();
    written = await writeCheckpoint(checkpoint.folder, { progress, state: await state.read() }, {
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
        batches.push(await prepareTraining(model, next.value, objective));
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
      for (const rule of rules) {
        const batch = progress.batches + batches.length - 1;
        await rule.betweenSteps?.(
          { step: entry.step, steps, batch, seed: progress.seed },
          state.of(rule),
        );
      }
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
  return { model: await read(), history: progress.history, stopped, checkpoint: written };
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
  const targets = batches.reduce((n, b) => n + b.count, 0);
  if (targets === 0) {
    throw new TrainingError(
      "LABELS_EMPTY",
      `No label counts in the batches of step ${at.step} (from batch ${at.firstBatch}): all are −100 or padding.`,
    );
  }
  const factor = learningRateFactor(at.schedule ?? "constant", {
    step: at.step - 1,
    steps: at.steps,
    warmupSteps: at.warmupSteps,
  });
  const learningRate = at.learningRate * factor;
  let loss = 0, gradientNorm = 0;
  for (const [i, batch] of batches.entries()) {
    const number = at.firstBatch + i;
    const run = {
      lossScale: 1 / targets,
      penaltyScale: 1 / batches.length,
      // A different mask for each batch of the run, and the same ones again after a resume.
      dropoutSeed: dropoutSeed(at.seed, number),
      time: { step: at.step, steps: at.steps, batch: number, seed: at.seed },
    };
    if (i === batches.length - 1) {
      const { step, learningRate } = at;
      const out = await session.update(batch, { ...run, step, learningRate, factor });
      loss += out.loss;
      gradientNorm = out.gradientNorm;
    } else {
      loss += await session.accumulate(batch, run);
    }
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) {
      const [what, value] = Number.isFinite(loss) ? ["gradient", gradientNorm] : ["loss", loss];
      throw notFinite(`The ${what} of batch ${number} at step ${at.step} is ${value}`, {
        step: at.step,
        batch: number,
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

/** Data in another order would give other losses without a word. */
function checkSeed(given: number | undefined, recorded: number): void {
  if (given === undefined || given === recorded) return;
  throw new TrainingError(
    "RESUME_MISMATCH",
    `The run to resume was started with the seed ${recorded}, not ${given}. Resume with that one.`,
    { given, recorded },
  );
}
