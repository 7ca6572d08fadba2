/**
 * `train`: a LoRA from rows of data.
 *
 * @module
 */
import { join } from "node:path";
import { type Command, Option } from "commander";
import { getPeftModel } from "../adapters/inject.ts";
import type { AnyModel, PeftModel } from "../adapters/peft-model.ts";
import { formatCounts, getNbTrainableParameters } from "../adapters/status/trainable-parameters.ts";
import { generate } from "../generation/generate.ts";
import { PROBLEM_TYPES } from "../model/label-count.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import type { TaskType } from "../model/task-type.ts";
import { BELOW_ONE, NOT_NEGATIVE, POSITIVE, rule, wholeFrom } from "../options.ts";
import { POOLINGS } from "../tasks/pooling.ts";
import { type DataTable, readTable } from "../training/read-table.ts";
import { type Schedule, SCHEDULES } from "../training/schedule.ts";
import { measuredIn, type SeedSearch, trainSeeds } from "../training/seeds.ts";
import { stepsOf, type TrainOptions } from "../training/train-options.ts";
import { train, type TrainResult } from "../training/train.ts";
import { type CommandContext, INTERRUPTED, interruptible } from "./context.ts";
import { addExampleOptions } from "./examples.ts";
import { counted, table } from "./format.ts";
import {
  addLoraOptions,
  addModelOptions,
  commaList,
  givenLoraOptions,
  loraConfigOf,
  type ModelFlags,
  numeric,
  wholeNumbers,
  withAdapter,
  withModel,
} from "./options.ts";
import { createProgress, evaluated } from "./progress.ts";
import { refuseExisting, removeCheckpoints, saveSomewhere, writeRecords } from "./run-folder.ts";
import { type DataFlags, labelsFor, readData } from "./train-data.ts";

/** Tokens of a sample while training. */
const SAMPLE_TOKENS = 48;

interface TrainFlags extends ModelFlags, DataFlags {
  readonly taskType?: TaskType;
  readonly seeds?: readonly number[];
  readonly metricForBestModel?: string;
  readonly greaterIsBetter?: boolean;
  readonly out: string;
  readonly learningRate: number;
  readonly steps?: number;
  readonly epochs: number;
  readonly gradientAccumulation: number;
  readonly schedule: Schedule;
  readonly warmupSteps: number;
  readonly weightDecay?: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly maxGradientNorm?: number;
  readonly gradientCheckpointing?: boolean;
  readonly evalEvery?: number;
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
    .summary("train a LoRA on rows of data")
    .description(
      "Trains a LoRA and writes it in the format of PEFT. Data are JSON lines, .json, .csv, .tsv or .parquet. " +
        'For CAUSAL_LM each row is {"text"}, {"prompt", "completion"}, {"messages"}, {"conversations"} (ShareGPT) or ' +
        '{"instruction", "output"} (Alpaca): all of a text is learned, of the others only the completion and the assistant\'s turns. ' +
        "For SEQ_CLS it is {text, label}, {sentence1, sentence2, label} or {image, label}, for TOKEN_CLS {tokens, ner_tags}, for QUESTION_ANS " +
        "{question, context, answers}, for SEQ_2_SEQ_LM {source, target}, for FEATURE_EXTRACTION {anchor, positive, negative}; other columns can be named. Ctrl-C ends the run after " +
        "the current step with a checkpoint, from which --resume goes on, and code 130.",
    )
    .requiredOption("--data <file>", "rows to train on")
    .addOption(
      new Option("--eval-data <file>", "rows to evaluate on").conflicts("evalSplit"),
    )
    .option(
      "--eval-split <share>",
      "share of the examples to evaluate on instead of learning them",
      numeric(rule("a number above 0 and below 1", (x) => Number(x) > 0 && Number(x) < 1)),
    )
    .option(
      "--label-names <names>",
      "what classes are called, in their order (default: as in the data)",
      commaList,
    )
    .addOption(
      new Option("--problem-type <kind>", "what labels of texts are (default: as they look)")
        .choices(PROBLEM_TYPES),
    )
    .addOption(
      new Option("--pooling <how>", "what stands for a text in FEATURE_EXTRACTION (default: mean)")
        .choices(POOLINGS),
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
    .addOption(
      new Option(
        "--seeds <numbers>",
        "train once for each of these seeds, or for so many from --seed on, and keep the best",
      ).argParser(wholeNumbers).conflicts(["resume", "adapter"]),
    )
    .option(
      "--eval-steps, --eval-every <n>",
      "evaluate every n steps, not only at the end",
      numeric(wholeFrom(1)),
    )
    .option(
      "--num-beams <n>",
      "beams of the texts that are written to be evaluated (SEQ_2_SEQ_LM)",
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
      "save the adapter of the best evaluation, not the last",
    )
    .option(
      "--metric-for-best-model <name>",
      "by which evaluations are compared (default: loss)",
    )
    .option("--greater-is-better", "more of it is better (default: but for loss, mse and mae)")
    .option("--no-greater-is-better", "less of it is better")
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
  train ./bert --task SEQ_CLS --data mails.csv --eval-split 0.2 --out ./out \\
    --seeds 1,2,3 --metric-for-best-model f1
  train ./llama --data text.jsonl --out ./out --resume`,
  ).action(async (source: string, flags: TrainFlags) => {
    const given = givenLoraOptions(command);
    if (flags.adapter !== undefined && given.length) {
      command.error(
        `error: --adapter brings its own config, so ${given.join(", ")} cannot be given beside it`,
      );
    }
    const [count, ...more] = flags.seeds ?? [];
    const seeds = flags.seeds &&
      (more.length ? flags.seeds : Array.from({ length: count }, (_, i) => flags.seed + i));
    context.finish(
      await interruptible(context, async (signal) => {
        await refuseExisting(flags);
        const table = await readTable(flags.data);
        return await withModel(
          source,
          {
            flags,
            context,
            load: { taskType: flags.taskType },
            adapter: flags.adapter,
            labelsFor: (model) => labelsFor(model, table, flags),
          },
          (base) => run(base, { flags: { ...flags, seeds }, table, context, signal }),
        );
      }),
    );
  });
}

async function run(
  base: ModelGraph,
  { flags, table, context, signal }: {
    readonly flags: TrainFlags;
    readonly table: DataTable;
    readonly context: CommandContext;
    readonly signal: AbortSignal;
  },
): Promise<number> {
  const data = await readData(base, table, { flags, context });
  const { seeds } = flags;
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
    evalEvery: flags.evalEvery,
    steps: flags.steps,
    epochs: flags.epochs,
    evalData: data.evaluation,
    metrics: data.metrics,
    objective: data.objective,
    metricForBest: flags.metricForBestModel,
    greaterIsBetter: flags.greaterIsBetter,
    loadBest: flags.loadBestModelAtEnd,
    earlyStopping: flags.earlyStoppingPatience === undefined ? undefined : {
      patience: flags.earlyStoppingPatience,
      threshold: flags.earlyStoppingThreshold,
    },
    resume: flags.resume === true ? flags.out : flags.resume,
    resumeAnyway: flags.resumeAnyway,
  };
  const steps = stepsOf(data.epoch(flags.seed), { ...options, epochs: flags.epochs });
  if (flags.overwrite && flags.resume === undefined) await removeCheckpoints(flags.out);
  let taken = 0;
  const runWith = async (seed: number, folder: string) => {
    const model = flags.adapter === undefined
      ? getPeftModel(base, loraConfigOf(flags, base), { seed })
      : await withAdapter(base, flags.adapter, { isTrainable: true, context });
    if (seed === (seeds?.[0] ?? seed)) describe(context, model, { ...data, steps });
    if (seeds) context.err(`seed ${seed}\n`);
    const progress = createProgress(context, { every: flags.loggingSteps });
    taken = 0;
    return await train(model, data.epoch(seed), {
      ...options,
      seed,
      checkpoint: { folder, every: flags.saveEvery, limit: flags.saveTotalLimit },
      signal,
      onStep: (report) => {
        taken++;
        progress.step(report);
      },
      onEvaluation: flags.samplePrompt && ((_, model) => writeSamples(context, model, flags)),
    }).finally(() => progress.stop());
  };
  let seed = flags.seed, result: TrainResult<PeftModel>;
  if (seeds) {
    const search = await trainSeeds(seeds, async (seed) => {
      const one = await runWith(seed, join(flags.out, `seed-${seed}`));
      if (one.stopped) throw signal.reason;
      return one;
    }, { metricForBest: options.metricForBest, greaterIsBetter: options.greaterIsBetter });
    ({ seed, best: result } = search);
    context.out(seedTable(search));
  } else result = await runWith(seed, flags.out);
  const { model: trained, history, stopped, checkpoint, evaluation } = result;
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
  const { batchSize } = flags;
  await writeRecords(folder, history, { ...options, seed, batchSize, taskType: base.taskType });
  const shown = flags.loadBestModelAtEnd && evaluation ? evaluation : history[history.length - 1];
  context.out(
    `${folder}: adapter after ${counted(shown.step, "step")}, loss ${
      history[0].loss.toFixed(4)
    } → ${shown.loss.toFixed(4)}${evaluated(shown, ", ")}\n`,
  );
  return folder === flags.out ? 0 : 1;
}

/** What runs with several seeds measured, and over all of them. */
function seedTable({ runs, seed, summary }: SeedSearch<PeftModel>): string {
  const names = Object.keys(summary);
  const four = (x: number) => x.toFixed(4);
  return table([
    ["seed", ...names.map((name) => name === "loss" ? "eval loss" : name), ""],
    ...runs.map(({ seed: own, evaluation }) => {
      const found = measuredIn(evaluation);
      return [String(own), ...names.map((name) => four(found[name])), own === seed ? "best" : ""];
    }),
    ["mean ± sd", ...names.map((n) => `${four(summary[n].mean)} ± ${four(summary[n].deviation)}`)],
  ]);
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

function describe(
  context: CommandContext,
  model: PeftModel,
  { examples, tokens, steps }: { examples: number; tokens: number; steps: number },
): void {
  context.err(
    `${counted(examples, "example")}, ${tokens ? `${counted(tokens, "token")}, ` : ""}${
      counted(steps, "step")
    } on ${model.base.device.description}\n` +
      `${formatCounts(getNbTrainableParameters(model))}\n`,
  );
}
