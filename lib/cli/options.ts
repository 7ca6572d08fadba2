/**
 * Options that several commands share.
 *
 * @module
 */
import { type Command, InvalidArgumentError, Option } from "commander";
import { loadPeftConfig } from "../adapters/checkpoint/load-peft-config.ts";
import { loadPeftWeights } from "../adapters/checkpoint/load-peft-weights.ts";
import { readLabelNames } from "../adapters/checkpoint/model-card.ts";
import { loadAdapter, type LoadAdapterOptions } from "../adapters/checkpoint/load.ts";
import type { AnyModel, PeftModel } from "../adapters/peft-model.ts";
import { setAdapter } from "../adapters/select.ts";
import { DEVICE_NAMES, type DeviceName } from "../device/open.ts";
import { loadModel, type LoadModelOptions } from "../io/load-model.ts";
import { type LoraConfig, loraConfig } from "../methods/lora/lora-config.ts";
import { TASK_TYPES } from "../methods/config.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { BELOW_ONE, FINITE, type OptionRule, wholeFrom } from "../options.ts";
import { TASKS } from "../tasks/mod.ts";
import type { LabelSet } from "../training/labels.ts";
import type { CliContext } from "./context.ts";
import { count } from "./format.ts";

/** Reads a number that follows a rule. */
export function numeric(rule: OptionRule): (text: string) => number {
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (rule.holds(value)) return value;
    throw new InvalidArgumentError(`It must be ${rule.must}.`);
  };
}

/** Reads a number of bytes such as `5GB` or `200MB`, with decimal prefixes. */
export function byteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)b?$/i.exec(text.trim());
  if (!match) throw new InvalidArgumentError("It must be a size such as 5GB or 200MB.");
  if (Number(match[1]) === 0) throw new InvalidArgumentError("It must be above 0.");
  return Number(match[1]) * 1000 ** " kmgt".indexOf(match[2].toLowerCase() || " ");
}

/** What {@link addModelOptions} adds. */
export interface ModelFlags {
  readonly device: DeviceName;
  readonly threads?: number;
  readonly dtype?: "f32" | "f16" | "bf16";
  readonly dequantize?: boolean;
  readonly revision?: string;
  readonly file?: string;
}

/** The argument and the options of every command that loads a model. */
export function addModelOptions(command: Command, defaults: { device?: DeviceName } = {}): Command {
  return command
    .argument("<model>", "checkpoint folder, .gguf file, or id on the Hugging Face hub")
    .addOption(
      new Option("--device <name>", "where to run: hardware WebGPU or else the CPU, or one of them")
        .choices(DEVICE_NAMES).default(defaults.device ?? "auto"),
    )
    .option(
      "--threads <n>",
      "threads of the CPU device (default: all cores)",
      numeric(wholeFrom(1)),
    )
    .addOption(
      new Option("--dtype <type>", "type of the base's plain weights (default: as stored)")
        .choices(["f32", "f16", "bf16"]),
    )
    .option("--dequantize", "turn block-quantized weights into plain ones")
    .option("--revision <name>", "branch, tag or commit of a model on the hub")
    .option("--file <name>", "file of weights, where a folder or repository has several");
}

/** What decides what a model is for, and its classes. */
type ModelKind = Pick<LoadModelOptions, "taskType" | "labelNames" | "numLabels">;

/**
 * Loads the model that a command names, says where it differs from its config, and closes its device
 * after `use`.
 *
 * @param options `load` is what the model is for, and its classes; of an `adapter` it gets those that
 * are left out; `labelsFor` may name other classes than its config, once that is known.
 */
export async function withModel<T>(
  source: string,
  { flags, context, ...options }: {
    readonly flags: ModelFlags;
    readonly context: CliContext;
    readonly load?: ModelKind;
    readonly adapter?: string;
    readonly labelsFor?: (model: ModelGraph) => Partial<LabelSet> | undefined;
  },
  use: (model: ModelGraph) => Promise<T>,
): Promise<T> {
  const { device, threads, dtype, dequantize, revision, file } = flags;
  const given = { threads, dtype, dequantize, revision, file };
  const own = options.adapter === undefined ? {} : await adapterKind(options.adapter);
  const named = Object.entries(options.load ?? {}).filter(([, value]) => value !== undefined);
  const kind: ModelKind = { ...own, ...Object.fromEntries(named) };
  const first = await loadModel(source, { ...given, ...kind, device });
  using _device = first.device;
  const labels = options.labelsFor?.(first);
  const model = labels
    ? await loadModel(source, { ...given, ...kind, ...labels, device: first.device })
    : first;
  if (model.untied.length) {
    context.err(
      `${source} holds its own ${
        model.untied.join(", ")
      }, which counts, although its config says ` +
        "that it is tied to the embedding.\n",
    );
  }
  return await use(model);
}

/** The task and the classes of an adapter that is for another task than a language model's. */
async function adapterKind(
  adapter: string,
): Promise<ModelKind> {
  const { taskType } = await loadPeftConfig(adapter);
  if (taskType === null || taskType === "CAUSAL_LM") return {};
  const labelNames = await readLabelNames(adapter);
  if (labelNames || !TASKS[taskType].heads) return { taskType, labelNames };
  // Adapters that Python wrote do not name their classes: the head has a row for each.
  const weights = await loadPeftWeights(adapter);
  const isHead = new RegExp(`\\.(${TASKS[taskType].heads.join("|")})(\\.out_proj)?\\.weight$`);
  const head = [...weights].find(([key]) => isHead.test(key));
  return { taskType, numLabels: head?.[1].shape[0] };
}

/** Loads an adapter; what it does to the base is written. */
export function withAdapter(
  model: AnyModel,
  folder: string,
  { context, ...options }: LoadAdapterOptions & { readonly context: CliContext },
): Promise<PeftModel> {
  return loadAdapter(model, folder, {
    ...options,
    onReport({ notes, vocabulary: { base, adapter } }) {
      for (const note of notes) context.err(`${folder}: ${note}\n`);
      if (base === adapter) return;
      context.err(
        `${folder} was trained with ${count(adapter)} tokens: the base, which has ${
          count(base)
        }, is resized.\n`,
      );
    },
  });
}

/** Loads adapters onto a model, all of them active. */
export async function withAdapters(
  base: ModelGraph,
  folders: readonly string[],
  context: CliContext,
): Promise<AnyModel> {
  let model: AnyModel = base;
  const names: string[] = [];
  for (const [i, folder] of folders.entries()) {
    const adapterName = i === 0 ? "default" : `adapter${i}`;
    names.push(adapterName);
    model = await withAdapter(model, folder, { adapterName, context });
  }
  return model.type === "peft" ? setAdapter(model, names) : model;
}

const LIST = "names, separated by commas";

/** PEFT's options of LoRA, by PEFT's names. */
const LORA_OPTIONS: readonly Option[] = [
  new Option("--r <n>", "rank of the update (default: 8)").argParser(numeric(wholeFrom(1))),
  new Option("--lora-alpha <x>", "the update is scaled by alpha / r (default: 8)")
    .argParser(numeric(FINITE)),
  new Option("--lora-dropout <p>", "dropout before the update (default: 0)").argParser(
    numeric(BELOW_ONE),
  ),
  new Option(
    "--target-modules <names>",
    `modules to adapt: ${LIST}, a regular expression for whole paths, or all-linear ` +
      "(default: what is usual for the architecture)",
  ).argParser(namesOrPattern),
  new Option("--exclude-modules <names>", `modules to leave out: ${LIST}, or a regular expression`)
    .argParser(namesOrPattern),
  new Option("--modules-to-save <names>", `modules to train and save as a whole: ${LIST}`)
    .argParser(commaList),
  new Option("--layers-to-transform <numbers>", "only these layers, separated by commas")
    .argParser(wholeNumbers),
  new Option("--layers-pattern <names>", "name of the list that holds the layers").argParser(
    commaList,
  ),
  new Option("--rank-pattern <json>", 'ranks that differ, as {"name": rank}').argParser(jsonObject),
  new Option("--alpha-pattern <json>", 'alphas that differ, as {"name": alpha}')
    .argParser(jsonObject),
  new Option("--bias <mode>", "which biases of the base to train (default: none)")
    .choices(["none", "all", "lora_only"]),
  new Option("--lora-bias", "add a trained bias to B"),
  new Option("--use-rslora", "scale by alpha / √r"),
  new Option("--use-dora", "learn magnitudes too (DoRA)"),
  new Option("--fan-in-fan-out", "weights are stored [in, out] (found out anyway)"),
  new Option(
    "--init-lora-weights <how>",
    "true, false, gaussian, orthogonal, olora, pissa or pissa_niter_<n> (default: true)",
  ).argParser((text) => text === "true" ? true : text === "false" ? false : text),
  new Option("--trainable-token-indices <ids>", "rows of the embedding to train: ids, or JSON")
    .argParser((text) => text.trim().startsWith("{") ? jsonObject(text) : wholeNumbers(text)),
  new Option("--ensure-weight-tying", "keep tied modules tied"),
  new Option(
    "--task, --task-type <type>",
    "what the adapter is for (default: what the model's config says)",
  ).choices(TASK_TYPES),
];

/** Adds PEFT's options of LoRA. */
export function addLoraOptions(command: Command): Command {
  command.optionsGroup("LoRA:");
  for (const option of LORA_OPTIONS) command.addOption(option);
  return command.optionsGroup("Options:");
}

/** The LoRA config that the options of a command make, for a model's task. */
export function loraConfigOf(flags: object, { taskType }: ModelGraph): LoraConfig {
  const names = new Set(LORA_OPTIONS.map((option) => option.attributeName()));
  const given = Object.entries(flags).filter(([name]) => names.has(name));
  return loraConfig({ ...Object.fromEntries(given), taskType });
}

/** The options of LoRA, by flag, that the user has given. */
export function givenLoraOptions(command: Command): string[] {
  return LORA_OPTIONS.filter((option) =>
    command.getOptionValueSource(option.attributeName()) === "cli"
  ).map((option) => option.long!);
}

/** Names, separated by commas. */
export function commaList(text: string): string[] {
  const list = text.split(",").map((part) => part.trim()).filter((part) => part !== "");
  if (list.length === 0) throw new InvalidArgumentError("It must hold at least one name.");
  return list;
}

/**
 * Names hold letters, digits, dots, dashes and underscores; anything else makes it a regular
 * expression.
 */
function namesOrPattern(text: string): string[] | string {
  if (text === "all-linear" || !/^[\w.,\s-]*$/.test(text)) return text;
  return commaList(text);
}

/** Whole numbers from 0 on, separated by commas. */
export function wholeNumbers(text: string): number[] {
  return commaList(text).map(numeric(wholeFrom(0)));
}

function jsonObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return value as Record<string, unknown>;
    }
  } catch {
    // Said below.
  }
  throw new InvalidArgumentError("It must be a JSON object.");
}
