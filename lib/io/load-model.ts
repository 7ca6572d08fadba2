/**
 * `loadModel` and `createModel`: a model from a checkpoint, or a new one.
 *
 * @module
 */
import { architectureOf, ARCHITECTURES } from "../architectures/mod.ts";
import type { Device } from "../device/device.ts";
import { type DeviceName, openDevice } from "../device/open.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { createModelGraph, type ModelGraph } from "../model/model-graph.ts";
import { parameterShapes } from "../model/site.ts";
import {
  BOOLEAN,
  checkOptions,
  oneOf,
  type OptionRules,
  TEXT,
  WHOLE,
  wholeFrom,
} from "../options.ts";
import { castTensor } from "../tensor/convert.ts";
import { isBlockType, isFloating, sizeOf } from "../tensor/dtype.ts";
import { randomNormal } from "../tensor/random.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { HUB_RULES } from "./hub.ts";
import { openCheckpoint, type OpenCheckpointOptions } from "./checkpoint.ts";
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
  architectures: null,
};

const LOAD_OPTIONS: OptionRules<LoadModelOptions> = {
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
 * @throws {UnsupportedError} for a `model_type` that no architecture serves.
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
export async function loadModel(
  source: string | URL,
  options: LoadModelOptions = {},
): Promise<ModelGraph> {
  checkOptions(options, LOAD_OPTIONS, { code: "LOAD_OPTION", of: "loadModel" });
  const checkpoint = await openCheckpoint(source, options);
  const architecture = architectureOf(checkpoint.config, options.architectures ?? ARCHITECTURES);
  const { dequantize = false, dtype } = options;
  const parameters = new Map<string, Tensor>();
  for (const [name, stored] of checkpoint.parameters) {
    const plain = isBlockType(stored.dtype)
      ? (dequantize ? dtype ?? "f32" : undefined)
      : (isFloating(stored.dtype) ? dtype : undefined);
    parameters.set(name, plain ? castTensor(stored, plain) : stored);
  }
  const model = await onDevice(options, (device) =>
    createModelGraph(architecture, {
      config: checkpoint.config,
      generationConfig: checkpoint.generationConfig,
      parameters,
      device,
      source: checkpoint.source.name,
    }));
  setTokenizerSource(model.config, checkpoint);
  return model;
}

/**
 * A model with random weights: normal with the config's `initializer_range` as standard deviation,
 * biases 0, norm weights 1.
 *
 * @param config What `config.json` would hold.
 * @param options `seed` (0 by default) decides the weights.
 * @throws {ConfigError} where the config lacks what the architecture needs.
 * @throws {UnsupportedError} for an unknown `model_type`.
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
export async function createModel(
  config: ModelConfig,
  options: ModelDeviceOptions & { readonly seed?: number } = {},
): Promise<ModelGraph> {
  checkOptions(options, { ...DEVICE_OPTIONS, seed: WHOLE }, {
    code: "LOAD_OPTION",
    of: "createModel",
  });
  const { seed = 0, architectures = ARCHITECTURES } = options;
  const architecture = architectureOf(config, architectures);
  const std = architecture.initializerRange(config);
  const tied = architecture.tied(config);
  const parameters = new Map<string, Tensor>();
  for (const site of architecture.sites(config)) {
    for (const [part, shape] of Object.entries(parameterShapes(site))) {
      const name = `${site.path}.${part}`;
      if (name in tied) continue;
      const size = sizeOf(shape);
      const values = part === "bias"
        ? new Float32Array(size)
        : site.kind === "norm"
        ? new Float32Array(size).fill(1)
        : randomNormal(size, { seed, stream: parameters.size, std });
      parameters.set(name, tensor(values, { shape }));
    }
  }
  return await onDevice(
    options,
    (device) => createModelGraph(architecture, { config, parameters, device }),
  );
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
