/**
 * `plan`: what an adapter would be and what training it would cost.
 *
 * @module
 */
import type { Command } from "commander";
import { objectiveOf } from "../adapters/batch.ts";
import { getPeftModel } from "../adapters/inject.ts";
import { trainableLeaves } from "../adapters/leaves.ts";
import { type AdapterPlan, planAdapter } from "../adapters/plan/plan.ts";
import { formatCounts } from "../adapters/status/trainable-parameters.ts";
import { maxPositionsOf } from "../generation/prompt.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { labelNames } from "../model/label-count.ts";
import { isPixels, type ModelGraph } from "../model/model-graph.ts";
import type { TaskType } from "../model/task-type.ts";
import { wholeFrom } from "../options.ts";
import { type Cost, cost } from "../program/cost.ts";
import { contrastive } from "../tasks/contrastive.ts";
import { problemOf } from "../tasks/seq-cls.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { tensor } from "../tensor/tensor.ts";
import { adamW } from "../training/adamw.ts";
import { prepareTraining } from "../training/batch.ts";
import { padExamples } from "../training/data.ts";
import { packLeaves } from "../training/packing.ts";
import { traceStep } from "../training/step-program.ts";
import { readTable } from "../training/read-table.ts";
import type { TokenizedExample } from "../training/row-rule.ts";
import type { TokenizedData } from "../training/tokenize.ts";
import type { CommandContext } from "./context.ts";
import { addExampleOptions, type ExampleFlags, readExamples } from "./examples.ts";
import { bytes, count, counted, scaled, table } from "./format.ts";
import {
  addLoraOptions,
  addModelOptions,
  loraConfigOf,
  type ModelFlags,
  numeric,
  withModel,
} from "./options.ts";

interface PlanFlags extends ModelFlags, ExampleFlags {
  readonly data?: string;
  readonly taskType?: TaskType;
  readonly batchSize: number;
  readonly json?: boolean;
}

/** Adds the command. */
export function addPlanCommand(program: Command, context: CommandContext): void {
  const command = program.command("plan")
    .summary("show which modules an adapter would adapt, and its cost")
    .description(
      "Shows which modules the options name, how much would be trained, and what one training step would cost. Nothing is trained. " +
        "Ends with code 1 where the options do not fit the model.",
    );
  addLoraOptions(command)
    .option("--batch-size <n>", "rows of the training step", numeric(wholeFrom(1)), 4)
    .option("--data <file>", "data whose examples are counted")
    .option("--json", "print JSON");
  addExampleOptions(command);
  addModelOptions(command, { device: "cpu" }).addHelpText(
    "after",
    `
Examples:
  plan SmolLM2-135M-Instruct.Q4_1.gguf --r 8 --target-modules all-linear
  plan ./llama --target-modules q_proj,v_proj --layers-to-transform 0,1 --json
  plan ./llama --data chats.jsonl --show-example 2
  plan ./llama --target-modules '.*\\.layers\\.\\d+\\.mlp\\..*'`,
  ).action(async (source: string, flags: PlanFlags) => {
    if (flags.showExample !== undefined && (flags.data === undefined || flags.json)) {
      command.error("error: --show-example shows examples of --data, as text");
    }
    context.finish(
      await withModel(
        source,
        { flags, context, load: { taskType: flags.taskType } },
        (model) => run(model, flags, context),
      ),
    );
  });
}

async function run(
  model: ModelGraph,
  given: PlanFlags,
  context: CommandContext,
): Promise<number> {
  const flags = { ...given, maxLength: Math.min(given.maxLength, maxPositionsOf(model)) };
  const config = loraConfigOf(flags, model);
  const plan = planAdapter(model, config);
  const step = plan.problems.length === 0 ? await stepCost(model, plan, flags) : null;
  const data = flags.data === undefined
    ? null
    : await readExamples(model, await readTable(flags.data), {
      flags: { ...flags, name: flags.data },
      context,
    });
  context.out(
    flags.json
      ? JSON.stringify({ ...asJson(plan, step, flags), data: data && dataJson(data) }, null, 2) +
        "\n"
      : asText(plan, step, flags) + (data ? dataText(data) : ""),
  );
  for (const { code, message } of plan.problems) context.err(`[${code}] ${message}\n`);
  return plan.problems.length === 0 ? 0 : 1;
}

/** What a task's rows learn, as far as the size of a step depends on it. */
const LEARNED: Readonly<
  Record<TaskType, (ids: readonly number[], config: ModelConfig) => Partial<TokenizedExample>>
> = {
  CAUSAL_LM: (labels) => ({ labels }),
  TOKEN_CLS: (labels) => ({ labels }),
  SEQ_CLS: (_, config) => ({
    labels: problemOf(config, []) === "single_label_classification"
      ? [0]
      : labelNames(config).map(() => 0),
    labelsOf: "row",
  }),
  QUESTION_ANS: () => ({ labels: [0, 0], labelsOf: "span" }),
  SEQ_2_SEQ_LM: (labels) => ({ labels, labelsOf: "decoder" }),
  FEATURE_EXTRACTION: (ids) => ({ labelsOf: "none", others: [{ ids }] }),
};

async function stepCost(model: ModelGraph, plan: AdapterPlan, flags: PlanFlags): Promise<Cost> {
  const adapted = getPeftModel(model, plan.config);
  const { batchSize, maxLength } = flags, { architecture, config, taskType } = model;
  const id = architecture.heads[taskType]?.needs?.(config) ?? 0;
  const ids = new Array<number>(maxLength).fill(id);
  const row = { ids, labels: [], ...LEARNED[taskType](ids, config) };
  const [{ inputIds, attentionMask, ...learned }] = padExamples(
    Array.from({ length: batchSize }, () => row),
    { batchSize, multipleOf: 1 },
  );
  const pixels = architecture.reads?.(config).find(isPixels);
  const shape = [batchSize, ...pixels?.axes.slice(1) ?? []].map(Number);
  const batch = pixels
    ? { ...learned, pixelValues: tensor(new Float32Array(sizeOf(shape)), { shape }) }
    : { ...learned, inputIds, attentionMask };
  const objective = objectiveOf(adapted) ?? contrastive();
  const { program } = traceStep(adapted, {
    kind: "update",
    prepared: await prepareTraining(adapted, batch, objective),
    objective,
    packing: packLeaves(trainableLeaves(adapted)),
    optimizer: adamW(),
    dropout: true,
  });
  return cost(program);
}

function allParameters(plan: AdapterPlan): number {
  return plan.baseParameters + plan.trainableParameters;
}

function dataJson({ examples, notes }: TokenizedData): Readonly<Record<string, unknown>> {
  const tokens = examples.reduce((sum, { ids }) => sum + ids.length, 0);
  const learned = examples.flatMap(({ labels }) => labels.filter((label) => label >= 0)).length;
  return { examples: examples.length, tokens, learned, notes };
}

function dataText(data: TokenizedData): string {
  const { examples, tokens, learned } = dataJson(data);
  return `data: ${counted(Number(examples), "example")}, ${counted(Number(tokens), "token")}, ${
    count(Number(learned))
  } learned\n`;
}

function asJson(
  plan: AdapterPlan,
  step: Cost | null,
  flags: PlanFlags,
): Readonly<Record<string, unknown>> {
  const all = allParameters(plan);
  return {
    config: plan.config,
    patterns: plan.patterns,
    sites: plan.sites.map(({ site, layer, leaves }) => ({
      path: site.path,
      kind: site.kind,
      layer,
      leaves,
    })),
    layers: [...plan.layers].map(([layer, sites]) => ({ layer, sites })),
    trainableParameters: plan.trainableParameters,
    allParameters: all,
    trainablePercent: 100 * plan.trainableParameters / all,
    bytes: plan.bytes,
    step: step && { batchSize: flags.batchSize, length: flags.maxLength, ...step },
    notes: plan.notes,
    problems: plan.problems.map(({ name, code, message }) => ({ name, code, message })),
  };
}

function asText(plan: AdapterPlan, step: Cost | null, flags: PlanFlags): string {
  const rows = plan.patterns.map(({ field, pattern, modules, leftOut, nearest }) => [
    field,
    pattern,
    count(modules.length - leftOut.length),
    modules.length
      ? `${modules[0]}${modules.length > 1 ? " …" : ""}${
        leftOut.length ? ` (${leftOut.length} left out)` : ""
      }`
      : `nothing${nearest.length ? `; nearest: ${nearest.join(", ")}` : ""}`,
  ]);
  const layers = [...plan.layers.keys()].filter((layer) => layer !== null);
  const lines = [
    table([["field", "pattern", "modules", "such as"], ...rows], { right: [2] }),
    `sites: ${count(plan.sites.length)} in ${count(layers.length)} layers\n`,
    `${formatCounts({ trainable: plan.trainableParameters, all: allParameters(plan) })}\n`,
    `adapter file: ${bytes(plan.bytes)}\n`,
  ];
  if (step) {
    lines.push(
      `one training step of ${flags.batchSize} × ${flags.maxLength} tokens: ${
        scaled(step.flops, "FLOP")
      }, ` +
        `${bytes(step.bytes)} moved, peak memory ${bytes(step.peakMemory)} (${
          bytes(step.inputBytes)
        } of it weights and state), ` +
        `${count(step.dispatches)} dispatches\n`,
    );
  }
  for (const note of plan.notes) lines.push(`note: ${note}\n`);
  return lines.join("");
}
