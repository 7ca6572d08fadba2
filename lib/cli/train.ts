/**
 * `train`: a LoRA from JSON lines.
 *
 * @module
 */
import { join } from "node:path";
import { type Command, Option } from "commander";
import { getPeftModel } from "../adapters/inject.ts";
import type { AnyModel, PeftModel } from "../adapters/peft-model.ts";
import { savePretrained } from "../adapters/checkpoint/save.ts";
import { formatCounts, getNbTrainableParameters } from "../adapters/status/trainable-parameters.ts";
import { FileError, TrainingError, ValueError } from "../errors.ts";
import { generate } from "../generation/generate.ts";
import { maxPositionsOf } from "../generation/prompt.ts";
import { writeFileAtomic } from "../io/atomic.ts";
import { wrap } from "../io/byte-source.ts";
import { tokenizerOf } from "../io/model-tokenizer.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { BELOW_ONE, NOT_NEGATIVE, POSITIVE, rule, wholeFrom } from "../options.ts";
import { randomOrder } from "../tensor/random.ts";
import type { TrainingBatch } from "../training/batch.ts";
import { packExamples, padExamples } from "../training/data.ts";
import type { HistoryEntry } from "../training/report.ts";
import { type Schedule, SCHEDULES } from "../training/schedule.ts";
import { stepsOf, type TrainOptions } from "../training/train-options.ts";
import { train } from "../training/train.ts";
import { type CommandContext, INTERRUPTED, interruptible } from "./context.ts";
import { addExampleOptions, type ExampleFlags, readExamples } from "./examples.ts";
import { counted } from "./format.ts";
import {
  addLoraOptions,
  addModelOptions,
  givenLoraOptions,
  loraConfigOf,
  type ModelFlags,
  numeric,
  withAdapter,
  withModel,
} from "./options.ts";
import { createProgress } from "./progress.ts";

/** Tokens of a sample while training. */
const SAMPLE_TOKENS = 48;

interface TrainFlags extends ModelFlags, ExampleFlags {
  readonly data: string;
  readonly evalData?: string;
  readonly out: string;
  readonly adapter?: string;
  readonly learningRate: number;
  readonly steps?: number;
  readonly epochs: number;
  readonly batchSize: number;
  readonly packing?: boolean;
  readonly shuffle: boolean;
  readonly gradientAccumulation: number;
  readonly schedule: Schedule;
  readonly warmupSteps: number;
  readonly weightDecay?: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly maxGradientNorm?: number;
  readonly gradientCheckpointing?: boolean;
  readonly seed: number;
  readonly evalEvery?: number;
  readonly evalSplit?: number;
  readonly saveEvery?: number;
  readonly saveTotalLimit?: number;
  readonly loadBestModelAtEnd?: boolean;
  readonly earlyStoppingPatience?: number;
  readonly earlyStoppingThreshold?: number;
  readonly samplePrompt?: readonly string[];
  readonly loggingSteps: number;
  readonly resume?: string | true;
  readonly resumeAnyway?: boolean;
  readonly overwrite?: boolean;
}

/** Adds the command. */
export function addTrainCommand(program: Command, context: CommandContext): void {
  const command = program.command("train")
    .summary("train a LoRA on JSON lines")
    .description(
      'Trains a LoRA and writes it in the format of PEFT. Each line of the data is an object {"text"}, {"prompt", "completion"}, ' +
        '{"messages"}, {"conversations"} (ShareGPT) or {"instruction", "output"} (Alpaca): all of a text is learned, of the others only ' +
        "the completion and the assistant's turns. Ctrl-C ends the run after " +
        "the current step with a checkpoint, from which --resume goes on, and code 130.",
    )
    .requiredOption("--data <file>", "JSON lines to train on")
    .addOption(
      new Option("--eval-data <file>", "JSON lines to evaluate on").conflicts("evalSplit"),
    )
    .option(
      "--eval-split <share>",
      "share of the examples to evaluate on instead of learning them",
      numeric(rule("a number above 0 and below 1", (x) => Number(x) > 0 && Number(x) < 1)),
    )
    .requiredOption("--out <folder>", "where the adapter and the checkpoints are written")
    .option("--adapter <folder>", "go on with this adapter instead of a new one");
  addLoraOptions(command).optionsGroup("Training:");
  addExampleOptions(command)
    .option("--learning-rate <x>", "peak learning rate", numeric(POSITIVE), 2e-4)
    .option(
      "--max-steps, --steps <n>",
      "optimizer steps (default: as many as the epochs have)",
      numeric(wholeFrom(1)),
    )
    .option("--num-train-epochs, --epochs <n>", "passes over the data", numeric(wholeFrom(1)), 1)
    .option(
      "--per-device-train-batch-size, --batch-size <n>",
      "rows of a batch",
      numeric(wholeFrom(1)),
      4,
    )
    .option("--packing", "put several examples into a row, which do not see each other")
    .option("--no-shuffle", "keep the order of the data")
    .option(
      "--gradient-accumulation-steps, --gradient-accumulation <n>",
      "batches of an optimizer step",
      numeric(wholeFrom(1)),
      1,
    )
    .addOption(
      new Option("--lr-scheduler-type, --schedule <name>", "course of the learning rate")
        .choices(SCHEDULES).default("constant"),
    )
    .option(
      "--warmup-steps <n>",
      "steps over which the learning rate rises from 0",
      numeric(wholeFrom(0)),
      0,
    )
    .option("--weight-decay <x>", "decoupled weight decay (default: 0.01)", numeric(NOT_NEGATIVE))
    .option(
      "--adam-beta1, --beta1 <x>",
      "decay of the mean of gradients (default: 0.9)",
      numeric(BELOW_ONE),
    )
    .option(
      "--adam-beta2, --beta2 <x>",
      "decay of the mean of squared gradients (default: 0.999)",
      numeric(BELOW_ONE),
    )
    .option(
      "--adam-epsilon, --epsilon <x>",
      "added to AdamW's denominator (default: 1e-8)",
      numeric(POSITIVE),
    )
    .option(
      "--max-grad-norm, --max-gradient-norm <x>",
      "scale down larger gradients",
      numeric(POSITIVE),
    )
    .option("--gradient-checkpointing", "less memory for a third more time")
    .option(
      "--seed <n>",
      "decides the adapter's start, dropout and the order of the data",
      numeric(wholeFrom(0)),
      0,
    )
    .option(
      "--eval-steps, --eval-every <n>",
      "evaluate every n steps, not only at the end",
      numeric(wholeFrom(1)),
    )
    .option(
      "--save-steps, --save-every <n>",
      "write a checkpoint every n steps",
      numeric(wholeFrom(1)),
    )
    .option(
      "--logging-steps <n>",
      "steps from one line of progress to the next",
      numeric(wholeFrom(1)),
      10,
    )
    .option(
      "--sample-prompt <text...>",
      "write how the model goes on with these prompts at each evaluation",
    )
    .option(
      "--save-total-limit <n>",
      "checkpoints to keep: the latest, and the best",
      numeric(wholeFrom(1)),
    )
    .option(
      "--load-best-model-at-end",
      "save the adapter of the evaluation with the smallest loss, not the last",
    )
    .option(
      "--early-stopping-patience <n>",
      "end after n evaluations in a row that are no better",
      numeric(wholeFrom(1)),
    )
    .option(
      "--early-stopping-threshold <x>",
      "by how much an evaluation must be better to count",
      numeric(NOT_NEGATIVE),
    )
    .option(
      "--resume-from-checkpoint, --resume [folder]",
      "go on from a checkpoint, or from the latest one in --out",
    )
    .option("--resume-anyway", "go on although data or adapter are not those of the run")
    .option("--overwrite", "replace what an earlier run has left in --out")
    .optionsGroup("Options:");
  addModelOptions(command).addHelpText(
    "after",
    `
Examples:
  train SmolLM2-135M-Instruct.Q4_1.gguf --data chats.jsonl --out ./out \\
    --target-modules all-linear
  train ./llama --data text.jsonl --eval-data held-back.jsonl --eval-steps 50 \\
    --out ./out --r 16 --lora-alpha 32 --learning-rate 3e-4 \\
    --num-train-epochs 3 --packing
  train ./llama --data text.jsonl --out ./out --resume`,
  ).action(async (source: string, flags: TrainFlags) => {
    const given = givenLoraOptions(command);
    if (flags.adapter !== undefined && given.length) {
      command.error(
        `error: --adapter brings its own config, so ${given.join(", ")} cannot be given beside it`,
      );
    }
    context.finish(
      await interruptible(
        context,
        (signal) =>
          withModel(source, { flags, context }, (base) => run(base, { flags, context, signal })),
      ),
    );
  });
}

async function run(
  base: ModelGraph,
  { flags, context, signal }: {
    readonly flags: TrainFlags;
    readonly context: CommandContext;
    readonly signal: AbortSignal;
  },
): Promise<number> {
  await refuseExisting(flags);
  const data = await readData(base, flags, context);
  const model = flags.adapter === undefined
    ? getPeftModel(base, loraConfigOf(flags), {
      seed: flags.seed,
    })
    : await withAdapter(base, flags.adapter, { isTrainable: true, context });
  const options: TrainOptions = {
    learningRate: flags.learningRate,
    schedule: flags.schedule,
    warmupSteps: flags.warmupSteps,
    gradientAccumulation: flags.gradientAccumulation,
    maxGradientNorm: flags.maxGradientNorm,
    gradientCheckpointing: flags.gradientCheckpointing,
    beta1: flags.beta1,
    beta2: flags.beta2,
    epsilon: flags.epsilon,
    weightDecay: flags.weightDecay,
    seed: flags.seed,
    evalEvery: flags.evalEvery,
    steps: flags.steps,
    epochs: flags.epochs,
    evalData: data.evaluation,
    loadBest: flags.loadBestModelAtEnd,
    earlyStopping: flags.earlyStoppingPatience === undefined ? undefined : {
      patience: flags.earlyStoppingPatience,
      threshold: flags.earlyStoppingThreshold,
    },
    checkpoint: { folder: flags.out, every: flags.saveEvery, limit: flags.saveTotalLimit },
    resume: flags.resume === true ? flags.out : flags.resume,
    resumeAnyway: flags.resumeAnyway,
  };
  const steps = stepsOf(data.epoch, options);
  describe(context, model, { ...data, steps });
  if (flags.overwrite && flags.resume === undefined) await removeCheckpoints(flags.out);
  const progress = createProgress(context, { every: flags.loggingSteps });
  let taken = 0;
  const { model: trained, history, stopped, checkpoint, best } = await train(model, data.epoch, {
    ...options,
    signal,
    onStep: (report) => {
      taken++;
      progress.step(report);
    },
    onEvaluation: flags.samplePrompt && ((_, model) => writeSamples(context, model, flags)),
  }).finally(() => progress.stop());
  if (stopped) {
    context.err(
      `Stopped after step ${history.length} of ${steps}. Go on with the same options and --resume; the checkpoint is ${checkpoint}.\n`,
    );
    return INTERRUPTED;
  }
  if (taken === 0) {
    context.err(
      `Nothing is left to train: the run has taken ${history.length} of ${
        counted(steps, "step")
      }. Ask for more with --max-steps or --num-train-epochs.\n`,
    );
  }
  const folder = await saveSomewhere(context, trained, flags.out);
  await writeRecords(folder, history, { ...options, batchSize: flags.batchSize });
  const [first, last] = [history[0], history[history.length - 1]];
  const shown = flags.loadBestModelAtEnd && best ? history[best.step - 1] : last;
  context.out(
    `${folder}: adapter after ${counted(shown.step, "step")}, loss ${first.loss.toFixed(4)} → ${
      shown.loss.toFixed(4)
    }` +
      (shown.evalLoss === undefined ? "\n" : `, eval loss ${shown.evalLoss.toFixed(4)}\n`),
  );
  return folder === flags.out ? 0 : 1;
}

/** Saves what hours have trained, in another place where the one that was asked for fails. */
async function saveSomewhere(
  context: CommandContext,
  model: PeftModel,
  out: string,
): Promise<string> {
  try {
    await savePretrained(model, out);
    return out;
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    const other = await Deno.makeTempDir({ prefix: "graft-adapter-" });
    await savePretrained(model, other);
    context.err(`${error.message}\nThe adapter was saved in ${other} instead.\n`);
    return other;
  }
}

/** What was learned when, and with which settings, for those who find the adapter later. */
async function writeRecords(
  folder: string,
  history: readonly HistoryEntry[],
  settings: TrainOptions & { readonly batchSize: number },
): Promise<void> {
  const { evalData: _data, checkpoint: _folder, resume: _path, ...kept } = settings;
  const lines = history.map((entry) => `${JSON.stringify(entry)}\n`);
  await writeFileAtomic(join(folder, "history.jsonl"), lines.join(""));
  await writeFileAtomic(join(folder, "training_options.json"), JSON.stringify(kept, null, 2));
}

async function writeSamples(
  context: CommandContext,
  model: AnyModel,
  { samplePrompt = [] }: TrainFlags,
): Promise<void> {
  const samples = await generate(model, samplePrompt, { maxNewTokens: SAMPLE_TOKENS });
  for (const [i, { text }] of samples.entries()) {
    context.err(`${JSON.stringify(samplePrompt[i])} → ${JSON.stringify(text)}\n`);
  }
}

interface Data {
  /** The batches of a pass over the data. */
  epoch(number: number): TrainingBatch[];
  readonly evaluation?: readonly TrainingBatch[];
  readonly examples: number;
  readonly tokens: number;
}

async function readData(
  base: ModelGraph,
  flags: TrainFlags,
  context: CommandContext,
): Promise<Data> {
  const { batchSize } = flags;
  const maxLength = Math.min(flags.maxLength, maxPositionsOf(base));
  const tokenizer = await tokenizerOf(base);
  // Padding is never looked at, and not every token that a config names has a row in the model.
  const rows = Number(base.config.vocab_size ?? Infinity);
  const padId = [tokenizer.padId, tokenizer.eosId].find((id) => id !== undefined && id < rows) ?? 0;
  const { examples: all } = await readExamples(base, flags.data, { flags, context });
  // Those held back do not depend on how often or in which order the others are learned.
  const order = randomOrder(all.length, { seed: flags.seed, stream: -1 });
  const held = Math.ceil(all.length * (flags.evalSplit ?? 0));
  if (held === all.length) {
    throw new TrainingError(
      "DATASET_EMPTY",
      `--eval-split ${flags.evalSplit} holds back all of ${all.length} examples; nothing is left to learn.`,
    );
  }
  const heldBack = new Set(order.slice(0, held));
  const examples = all.filter((_, i) => !heldBack.has(i));
  const evaluation = flags.evalData === undefined
    ? all.filter((_, i) => heldBack.has(i))
    : (await readExamples(base, flags.evalData, {
      flags: { ...flags, showExample: 0 },
      context,
    })).examples;
  return {
    epoch: (epoch) => {
      const options = { batchSize, padId, epoch, seed: flags.shuffle ? flags.seed : undefined };
      return flags.packing
        ? packExamples(examples, { ...options, length: maxLength })
        : padExamples(examples, options);
    },
    evaluation: evaluation.length ? padExamples(evaluation, { batchSize, padId }) : undefined,
    examples: examples.length,
    tokens: examples.reduce((n, { ids }) => n + ids.length, 0),
  };
}

function describe(
  context: CommandContext,
  model: PeftModel,
  { examples, tokens, steps }: { examples: number; tokens: number; steps: number },
): void {
  context.err(
    `${counted(examples, "example")}, ${counted(tokens, "token")}, ${
      counted(steps, "step")
    } on ${model.base.device.description}\n` +
      `${formatCounts(getNbTrainableParameters(model))}\n`,
  );
}

async function refuseExisting({ out, overwrite, resume }: TrainFlags): Promise<void> {
  if (overwrite || resume !== undefined) return;
  const left = (await entriesOf(out)).filter((name) =>
    name === "adapter_config.json" || isCheckpoint(name)
  );
  if (left.length === 0) return;
  throw new ValueError(
    "OUT_EXISTS",
    `${out} holds an earlier run (${
      left.slice(0, 3).join(", ")
    }). Go on with it (--resume), replace it (--overwrite), or choose another folder.`,
    { out },
  );
}

async function removeCheckpoints(out: string): Promise<void> {
  for (const name of (await entriesOf(out)).filter(isCheckpoint)) {
    await Deno.remove(join(out, name), { recursive: true });
  }
}

async function entriesOf(folder: string): Promise<string[]> {
  try {
    return await Array.fromAsync(Deno.readDir(folder), (entry) => entry.name);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) return [];
    throw wrap(cause, "NOT_A_FOLDER", `${folder} cannot be the folder of a run`, { folder });
  }
}

function isCheckpoint(name: string): boolean {
  return /^checkpoint-\d+$/.test(name);
}
