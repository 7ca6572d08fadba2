/**
 * `loadModel` and `createModel`: a model from a checkpoint, or a new one.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { architectureOf, ARCHITECTURES } from "../architectures/mod.ts";
import { configReader } from "../architectures/config-reader.ts";
import type { Device } from "../device/device.ts";
import { type DeviceName, openDevice } from "../device/open.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import {
  createModelGraph,
  type ModelGraph,
  type ModelKind,
  storedName,
  structureOf,
  withoutBodyPath,
} from "../model/model-graph.ts";
import { PROBLEM_TYPES, type ProblemType } from "../model/label-count.ts";
import { configFor, taskOf, tasksOf } from "../model/task-of.ts";
import { TASK_TYPES, type TaskType } from "../model/task-type.ts";
import {
  BOOLEAN,
  checkOptions,
  NOT_NEGATIVE,
  oneOf,
  type OptionRules,
  TEXT,
  WHOLE,
  wholeFrom,
} from "../options.ts";
import { castTensor } from "../tensor/convert.ts";
import { isBlockType, isFloating, sizeOf } from "../tensor/dtype.ts";
import { randomNormal } from "../tensor/random.ts";
import { computedTensor } from "../tensor/computed.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { HUB_RULES } from "./hub.ts";
import { isObject } from "./json.ts";
import { openCheckpoint, type OpenCheckpointOptions } from "./checkpoint.ts";
import { withStackedExperts } from "./stacked-experts.ts";
import { setTokenizerSource } from "./model-tokenizer.ts";

/** Where a model runs. */
export interface ModelDeviceOptions {
  /**
   * A device that is open, or which kind to open; `"auto"` by default. The caller disposes of it as
   * `model.device`.
   */
  readonly device?: DeviceName | Device;
  /** Threads of the CPU device, where it is opened here. */
  readonly threads?: number;
  /** Families of models that are known; all that the library brings by default. */
  readonly architectures?: readonly Architecture[];
  /**
   * What the model is for; by default what the class that its `config.json` names is for. Where it is
   * given, a head that the checkpoint lacks is new and random (the model's `initialized` names its
   * parameters), and heads for other tasks are left out.
   */
  readonly taskType?: TaskType;
  /** Number of classes of a new head, in place of those that the config names. */
  readonly numLabels?: number;
  /** What the classes are called, in their order, in place of those that the config names. */
  readonly labelNames?: readonly string[];
  /** What kind of labels texts have, in place of what the config says. */
  readonly problemType?: ProblemType;
}

/** How to load a model. */
export interface LoadModelOptions extends ModelDeviceOptions, OpenCheckpointOptions {
  /**
   * Turns block-quantized weights into plain ones when they are used: f32, or `dtype`. They stay
   * quantized by default.
   */
  readonly dequantize?: boolean;
  /** Type of plain weights; as they are stored by default. */
  readonly dtype?: "f32" | "f16" | "bf16";
}

const DEVICE_OPTIONS: OptionRules<ModelDeviceOptions> = {
  device: null,
  threads: wholeFrom(1),
  architectures: {
    must: "a list of architectures",
    holds: (x) => Array.isArray(x) && x.every((a) => isObject(a) && Array.isArray(a.modelTypes)),
  },
  taskType: oneOf(TASK_TYPES),
  numLabels: wholeFrom(1),
  labelNames: {
    must: "a list of names",
    holds: (x) => Array.isArray(x) && x.length > 0 && x.every((name) => typeof name === "string"),
  },
  problemType: oneOf(PROBLEM_TYPES),
};

/** What each option of {@link loadModel} must be. */
export const LOAD_MODEL_OPTIONS: OptionRules<LoadModelOptions> = {
  ...DEVICE_OPTIONS,
  file: TEXT,
  dequantize: BOOLEAN,
  dtype: oneOf(["f32", "f16", "bf16"]),
  ...HUB_RULES,
};

/**
 * Loads a model. Only headers are read; weights follow when the model runs.
 *
 * @param source A checkpoint folder (`config.json` and safetensors, single or sharded), a `.gguf`
 * file, or the id of a model on the Hugging Face hub.
 * @param options Device, dtype, and how to reach the hub.
 * @throws {FileError} where files are missing or damaged.
 * @throws {CheckpointError} where they do not fit together.
 * @throws {ConfigError} where the config lacks a field or has one of another type.
 * @throws {UnsupportedError} for a `model_type` that no architecture serves, and a task that it has
 * no models for.
 * @throws {DeviceError} where there is no such device.
 * @throws {ValueError} for an option that cannot be.
 *
 * @example
 * ```ts ignore
 * import { generate, loadModel } from "@graft/peft";
 * const model = await loadModel("SmolLM2-135M-Instruct.Q4_1.gguf");
 * using _device = model.device;
 * console.log((await generate(model, [{ role: "user", content: "What is a sloop?" }])).text);
 * ```
 */
export async function loadModel<T extends TaskType = TaskType>(
  source: string | URL,
  options: LoadModelOptions & { readonly taskType?: T } = {},
): Promise<ModelGraph<T>> {
  checkOptions(options, LOAD_MODEL_OPTIONS, { code: "LOAD_OPTION", of: "loadModel" });
  const checkpoint = await openCheckpoint(source, options);
  const architecture = architectureOf(checkpoint.config, options.architectures ?? ARCHITECTURES);
  const { dequantize = false, dtype } = options;
  const config = configFor(architecture, checkpoint.config, options);
  const taskType = options.taskType ?? taskOf(architecture, config);
  const kind = { architecture, config, taskType };
  // Layers that no file can hold are not walked through.
  structureOf(kind, 1000 + 2 * checkpoint.parameters.size);
  const stacked = withStackedExperts(checkpoint.parameters, architecture);
  const { apart, untied } = await withTies(stacked, kind);
  const parameters = new Map<string, Tensor>();
  for (const [name, stored] of apart) {
    const plain = isBlockType(stored.dtype)
      ? (dequantize ? dtype ?? "f32" : undefined)
      : (isFloating(stored.dtype) ? dtype : undefined);
    parameters.set(name, plain ? castTensor(stored, plain) : stored);
  }
  const fitted = withHead(parameters, kind);
  const fits = fitted.initialized.length === 0 && fitted.parameters.size === parameters.size;
  const headed = options.taskType ? fitted : {
    parameters,
    hint: fits
      ? undefined
      : `It has not the head of a model for ${taskType}: give a taskType (${
        tasksOf(architecture).join(", ")
      }) to begin one anew and leave others out.`,
  };
  const model = await onDevice(options, (device) =>
    createModelGraph(architecture, {
      config,
      taskType,
      generationConfig: checkpoint.generationConfig,
      ...headed,
      untied,
      device,
      source: checkpoint.source.name,
    }));
  setTokenizerSource(model.config, checkpoint);
  return model as ModelGraph<T>;
}

/**
 * A model with random weights: normal with the config's `initializer_range` as standard deviation,
 * biases 0, norm weights 1.
 *
 * @param config What `config.json` would hold.
 * @param options `seed` (0 by default) decides the weights.
 * @throws {ConfigError} where the config lacks what the architecture needs.
 * @throws {UnsupportedError} for an unknown `model_type`, and a task that it has no models for.
 * @throws {ValueError} for an option that cannot be.
 *
 * @example
 * ```ts
 * import { createModel, forward } from "@graft/peft";
 * const config = {
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * };
 * const model = await createModel(config, { device: "cpu", seed: 1 });
 * const { logits } = await forward(model, { inputIds: [[1, 2, 3]] });
 * console.log(logits.shape); // [1, 3, 96]
 * model.device[Symbol.dispose]();
 * ```
 */
export async function createModel<T extends TaskType = TaskType>(
  config: ModelConfig,
  options: ModelDeviceOptions & { readonly seed?: number; readonly taskType?: T } = {},
): Promise<ModelGraph<T>> {
  checkOptions(options, { ...DEVICE_OPTIONS, seed: WHOLE }, {
    code: "LOAD_OPTION",
    of: "createModel",
  });
  const { seed = 0, architectures = ARCHITECTURES } = options;
  const architecture = architectureOf(config, architectures);
  const own = configFor(architecture, config, options);
  const taskType = options.taskType ?? taskOf(architecture, own);
  const kind = { architecture, config: own, taskType };
  const parameters = newParameters(kind, { seed });
  return await onDevice(
    options,
    (device) => createModelGraph(architecture, { ...kind, parameters, device }),
  ) as ModelGraph<T>;
}

/**
 * The parameters of a checkpoint, those that are tied and have the same values once, under the name
 * that holds them. Of those that have other values, each counts; they are named where the config
 * says that they are tied.
 */
async function withTies(
  stored: ReadonlyMap<string, Tensor>,
  kind: ModelKind,
): Promise<{ readonly apart: ReadonlyMap<string, Tensor>; readonly untied: readonly string[] }> {
  const { shapes, tied } = structureOf(kind);
  const keys = new Map([...stored.keys()].map((key) => [
    storedName(key, kind.architecture, shapes),
    key,
  ]));
  const apart = new Map(stored), untied: string[] = [];
  for (const [alias, source] of tied) {
    const key = keys.get(alias);
    if (key === undefined) continue;
    const own = apart.get(key)!, other = apart.get(keys.get(source) ?? source);
    if (other && !await isSame(own, other)) {
      untied.push(alias);
      continue;
    }
    apart.delete(key);
    if (!other) apart.set(source, own);
  }
  return { apart, untied: kind.config.tie_word_embeddings === false ? [] : untied };
}

/** Whether two tensors hold the same bytes. */
async function isSame(a: Tensor, b: Tensor): Promise<boolean> {
  if (a.dtype !== b.dtype || a.shape.join() !== b.shape.join()) return false;
  const [x, y] = (await Promise.all([a.data(), b.data()])).map((data) =>
    new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  );
  return Buffer.compare(x, y) === 0;
}

/**
 * The parameters of a checkpoint without heads for other tasks, and with a new one where it lacks
 * that for this task. What all tasks share is no head.
 */
function withHead(
  stored: ReadonlyMap<string, Tensor>,
  kind: ModelKind,
): { readonly parameters: ReadonlyMap<string, Tensor>; readonly initialized: readonly string[] } {
  const { architecture } = kind;
  const inner = (name: string) => withoutBodyPath(name, architecture);
  const tasks = tasksOf(architecture).map((taskType) =>
    new Set([...structureOf({ ...kind, taskType }).shapes.keys()].map(inner))
  );
  const isHead = (name: string) => tasks.some((names) => !names.has(inner(name)));
  // Beside the body there are heads only, of tasks that the family may have no models for.
  const isApart = [...stored.keys()].some((key) => inner(key) !== key);
  const { shapes, tied } = structureOf(kind);
  const parameters = new Map<string, Tensor>();
  for (const [key, tensor] of stored) {
    const name = storedName(key, architecture, shapes);
    const isOther = !shapes.has(name) && isHead(name) &&
      (isApart && inner(name) === name || tasks.some((names) => names.has(inner(name))));
    if (!isOther) parameters.set(name, tensor);
  }
  const initialized = [...shapes.keys()].filter((name) =>
    isHead(name) && !tied.has(name) && !parameters.has(name)
  );
  const fresh = newParameters(kind, { seed: 0, names: new Set(initialized) });
  return { parameters: new Map([...parameters, ...fresh]), initialized };
}

/** Standard deviation of new weights. */
export function initialDeviation({ architecture, config }: ModelKind): number {
  return architecture.initializerRange?.(config) ??
    configReader(config).number("initializer_range", 0.02, NOT_NEGATIVE);
}

/** New weights by name, all or some: norms 1, biases 0, all others random. */
function newParameters(
  kind: ModelKind,
  { seed, names }: { readonly seed: number; readonly names?: ReadonlySet<string> },
): Map<string, Tensor> {
  const { sites, shapes, tied } = structureOf(kind);
  const std = initialDeviation(kind);
  const all = [...shapes].filter(([name]) => !tied.has(name));
  const chosen = all.map(([name, shape], stream): [string, Tensor] | undefined => {
    if (names && !names.has(name)) return undefined;
    const at = name.lastIndexOf("."), size = sizeOf(shape);
    const values = () =>
      name.slice(at + 1) === "bias"
        ? new Float32Array(size)
        : sites.get(name.slice(0, at))?.kind === "norm"
        ? new Float32Array(size).fill(1)
        : randomNormal(size, { seed, stream, std });
    // Of a head whose body does not fit, nothing is made.
    return [
      name,
      names ? computedTensor(shape, () => Promise.resolve(values())) : tensor(values(), { shape }),
    ];
  });
  return new Map(chosen.filter((entry) => entry !== undefined));
}

/** Opens the device that was asked for and closes it again when the model cannot be made. */
async function onDevice<T>(options: ModelDeviceOptions, make: (device: Device) => T): Promise<T> {
  const device = await openDevice(options.device ?? "auto", { threads: options.threads });
  try {
    return make(device);
  } catch (error) {
    if (device !== options.device) device[Symbol.dispose]();
    throw error;
  }
}
