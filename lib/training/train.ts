/**
 * `train`: from a model and data to a trained model.
 *
 * @module
 */
import { dirname, join } from "node:path";
import type { PreparedBatch } from "../adapters/batch.ts";
import { savePretrained } from "../adapters/checkpoint/save.ts";
import { trainableLeaves, withLeaves } from "../adapters/leaves.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { methodRules } from "../adapters/training-rule.ts";
import { TrainingError } from "../errors.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { prepareTraining, trainingObjective } from "./batch.ts";
import {
  bestEntry,
  type Criterion,
  type EvaluatedEntry,
  evaluations,
  goodness,
  isStuck,
} from "./best.ts";
import {
  checkFolder,
  type Progress,
  readCheckpoint,
  removeOldCheckpoints,
  writeCheckpoint,
} from "./checkpoint.ts";
import { evaluateWith, measureOf, prepareEvaluation } from "./evaluate.ts";
import { checkFingerprint, digestWith, newFingerprint } from "./fingerprint.ts";
import { packFor } from "./optimizer.ts";
import { nothingToTrain } from "./packing.ts";
import { createPace, type HistoryEntry } from "./report.ts";
import { learningRateFactor } from "./schedule.ts";
import { openSession, type TrainingSession } from "./session.ts";
import { savedShapes, type SavedState } from "./state.ts";
import { checkTrainOptions, optimizerOf, stepsOf, type TrainOptions } from "./train-options.ts";
import { checkData, noBatch, type TrainingData, windowsOf } from "./training-data.ts";

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
  /** The entry of the best evaluation, where there was one: see {@link TrainOptions.metricForBest}. */
  readonly best?: EvaluatedEntry;
  /** The entry of the evaluation that the model is of: the best with `loadBest`, else the last. */
  readonly evaluation?: EvaluatedEntry;
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
  const measure = measureOf(model, objective, options.metrics);
  const run = {
    ...options,
    objective,
    rules,
    packing,
    optimizer,
    accumulates: group > 1,
    measured: measure.measured,
  };
  const resumed = options.resume
    ? await readCheckpoint(options.resume, savedShapes(run))
    : undefined;
  let progress: Progress = resumed?.progress ??
    { step: 0, batches: 0, seed: options.seed ?? 0, history: [] };
  checkSeed(options.seed, progress.seed);
  let fingerprint = newFingerprint(model, group);
  const recorded = options.resumeAnyway ? undefined : resumed?.progress.fingerprint;
  let bestState = options.loadBest && resumed
    ? await bestOf(resumed, savedShapes(run), options)
    : undefined;
  // What is wrong with them must not come up after hours of training.
  const evaluation = options.evalData &&
    await prepareEvaluation(model, options.evalData, objective);
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
  const evaluateOn = (data: readonly PreparedBatch[]) =>
    evaluateWith(session, data, { measure, model: read });
  if (evaluation && options.metricForBest !== undefined) {
    const { loss, metrics } = await evaluateOn(evaluation.filter(({ count }) => count).slice(0, 1));
    goodness({ evalLoss: loss, evalMetrics: metrics }, options);
  }
  if (checkpoint) await checkFolder(checkpoint.folder, sizeOfState(savedShapes(run)));
  const save = async () => {
    if (!checkpoint || written?.endsWith(`-${progress.step}`)) return;
    const trained = await read();
    written = await writeCheckpoint(checkpoint.folder, {
      progress: { ...progress, fingerprint },
      state: await state.read(),
    }, {
      beside: async (folder) => {
        if (trained.type === "peft") await savePretrained(trained, folder);
      },
    });
    if (checkpoint.limit === undefined) return;
    const best = options.loadBest ? bestEntry(progress.history, options)?.step : undefined;
    await removeOldCheckpoints(checkpoint.folder, {
      limit: checkpoint.limit,
      kept: [progress.step, best],
    });
  };

  const pace = createPace();
  const epochs = options.steps === undefined ? options.epochs : undefined;
  const source = windowsOf(data, { group, skip: progress.batches, epochs });
  try {
    while (progress.step < steps && !signal?.aborted) {
      const next = await source.next();
      if (next.done) {
        if (progress.batches > 0) break; // data that cannot be gone through again has ended
        throw noBatch();
      }
      for (const batch of next.value.skipped) {
        const prepared = await prepareTraining(model, batch, objective);
        fingerprint = { ...fingerprint, data: await digestWith(fingerprint.data, prepared) };
      }
      const batches: PreparedBatch[] = [];
      for (const batch of next.value.batches) {
        batches.push(await prepareTraining(model, batch, objective));
      }
      if (batches.length === 0) continue;
      if (recorded && progress.step === resumed!.progress.step) {
        checkFingerprint(recorded, fingerprint, { ...progress, folder: resumed!.folder });
      }
      const entry = await takeStep(session, batches, {
        ...options,
        seed: progress.seed,
        step: progress.step + 1,
        steps,
        firstBatch: progress.batches,
        lastCheckpoint: lastGood(),
      });
      for (const batch of batches) {
        fingerprint = { ...fingerprint, data: await digestWith(fingerprint.data, batch) };
      }
      for (const rule of rules) {
        const batch = progress.batches + batches.length - 1;
        await rule.betweenSteps?.(
          { step: entry.step, steps, batch, seed: progress.seed },
          state.of(rule),
        );
      }
      let evaluated = entry;
      if (
        evaluation && (entry.step === steps || entry.step % (options.evalEvery ?? Infinity) === 0)
      ) {
        const { loss, metrics } = await evaluateOn(evaluation);
        const evalMetrics = Object.keys(metrics).length ? { evalMetrics: metrics } : {};
        evaluated = { ...entry, evalLoss: loss, ...evalMetrics };
      }
      progress = {
        ...progress,
        step: entry.step,
        batches: progress.batches + batches.length,
        history: [...progress.history, evaluated],
      };
      options.onStep?.({ ...evaluated, steps, ...pace.step(entry.tokens, steps - entry.step) });
      if (evaluated.evalLoss !== undefined) await options.onEvaluation?.(evaluated, await read());
      const isBest = evaluated.evalLoss !== undefined &&
        bestEntry(progress.history, options)?.step === entry.step;
      if (options.loadBest && isBest) {
        bestState = await state.read();
        await save();
      } else if (checkpoint?.every && entry.step % checkpoint.every === 0) await save();
      if (options.earlyStopping && isStuck(progress.history, options.earlyStopping, options)) {
        break;
      }
    }
  } finally {
    await source.return?.(undefined);
  }
  const stopped = signal?.aborted === true && progress.step < steps;
  if (stopped || checkpoint?.every) await save();
  if (!stopped && bestState) await state.write(bestState);
  return {
    model: await read(),
    history: progress.history,
    stopped,
    checkpoint: written,
    best: bestEntry(progress.history, options),
    evaluation: !stopped && bestState
      ? bestEntry(progress.history, options)
      : evaluations(progress.history).at(-1),
  };
}

/** The state of a run's best step, which its checkpoints have kept. */
async function bestOf(
  resumed: Awaited<ReturnType<typeof readCheckpoint>>,
  shapes: ReadonlyMap<string, readonly number[]>,
  criterion: Criterion,
): Promise<SavedState | undefined> {
  const { progress: { history, step }, folder, state } = resumed;
  const best = bestEntry(history, criterion);
  if (!best || best.step === step) return best && state;
  return (await readCheckpoint(join(dirname(folder), `checkpoint-${best.step}`), shapes)).state;
}

/** Bytes of a checkpoint and of the adapter beside it, about. */
function sizeOfState(shapes: ReadonlyMap<string, readonly number[]>): number {
  return 1.5 * [...shapes.values()].reduce((n, shape) => n + 4 * sizeOf(shape), 0);
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
