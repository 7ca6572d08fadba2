/**
 * What the configs of all prompt-learning methods share: those that put virtual tokens before the
 * text and adapt no module.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError, UnsupportedError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { type ModelGraph, writtenSequence } from "../model/model-graph.ts";
import { type ConfigFields, field, type FieldType, type PeftConfig } from "./config.ts";

/**
 * What every prompt-learning config holds. The sizes, and the task type, may be `null` until the
 * config meets a model, which then says them.
 */
export interface PromptLearningConfig extends PeftConfig {
  /** Number N of virtual tokens; must be given. */
  readonly numVirtualTokens: number | null;
  /** Size of what stands for a token; that of the model's hidden state by default. */
  readonly tokenDim: number | null;
  /** 2 for models with an encoder and a decoder, else 1; by the task type by default. */
  readonly numTransformerSubmodules: number | null;
  /** Number of attention heads; the model's by default. */
  readonly numAttentionHeads: number | null;
  /** Number of layers; the model's by default. */
  readonly numLayers: number | null;
  /** Modules that are trained and saved as a whole. */
  readonly modulesToSave: readonly string[] | null;
}

/** A size or `null`. */
export function optionalSize(): FieldType<number | null> {
  return z.int().min(1).nullable().default(null).describe("a whole number above 0 or null");
}

/** The fields of {@link PromptLearningConfig} that {@link PeftConfig} lacks. */
export function promptFields(): Omit<ConfigFields<PromptLearningConfig>, keyof PeftConfig> {
  return {
    numVirtualTokens: optionalSize(),
    tokenDim: optionalSize(),
    numTransformerSubmodules: optionalSize(),
    numAttentionHeads: optionalSize(),
    numLayers: optionalSize(),
    modulesToSave: field.names(),
  };
}

/**
 * The sizes of a complete config: numbers of virtual tokens, heads and layers, and the size of a token.
 *
 * @throws {ConfigError} where one is still `null`.
 */
export function promptSizes(
  config: PromptLearningConfig,
): Readonly<Record<"tokens" | "dim" | "heads" | "layers", number>> {
  const { numVirtualTokens, tokenDim, numAttentionHeads, numLayers } = config;
  const sizes = { numVirtualTokens, tokenDim, numAttentionHeads, numLayers };
  for (const [name, size] of Object.entries(sizes)) {
    if (size === null) throw missingSize(config, name);
  }
  return {
    tokens: numVirtualTokens!,
    dim: tokenDim!,
    heads: numAttentionHeads!,
    layers: numLayers!,
  };
}

/**
 * Fills in what a config leaves to the model, from the model's `config.json`, as PEFT does. A task
 * type that is missing becomes `CAUSAL_LM`: PEFT needs one to know that virtual tokens take part.
 *
 * @throws {ConfigError} where the number of virtual tokens is missing, where the model does not say
 * a size, and for an encoder and a decoder where the model has one transformer.
 */
export function completePromptConfig<C extends PromptLearningConfig>(
  config: C,
  model: ModelGraph,
): C {
  if (model.architecture.reads) {
    throw new UnsupportedError(
      "PROMPT_INPUTS",
      `${config.peftType} puts virtual tokens before those of a text, and a ${model.architecture.name} model reads images. Choose a method that adapts modules, such as LORA.`,
    );
  }
  if (config.numVirtualTokens === null) throw missingSize(config, "numVirtualTokens");
  const sizeOf = (name: keyof C & string, keys: readonly string[]) =>
    config[name] ?? sizeIn(model.config, keys) ?? fail(missingSize(config, name));
  const taskType = config.taskType ?? "CAUSAL_LM";
  const submodules = config.numTransformerSubmodules ?? (taskType === "SEQ_2_SEQ_LM" ? 2 : 1);
  if (submodules !== 1 && writtenSequence(model) !== "decoderTokens") {
    throw new ConfigError(
      "CONFIG_SUBMODULES",
      `A ${config.peftType} config with ${
        config.numTransformerSubmodules === null
          ? "the task type SEQ_2_SEQ_LM"
          : `numTransformerSubmodules ${submodules}`
      } is for a model with an encoder and a decoder, and a ${model.architecture.name} model is one ` +
        'transformer: set taskType to "CAUSAL_LM" and numTransformerSubmodules to 1 or null.',
      { numTransformerSubmodules: submodules, taskType },
    );
  }
  return {
    ...config,
    taskType,
    numTransformerSubmodules: submodules,
    numLayers: sizeOf("numLayers", ["num_hidden_layers", "num_layers", "n_layer"]),
    tokenDim: sizeOf("tokenDim", ["hidden_size", "n_embd", "d_model"]),
    numAttentionHeads: sizeOf("numAttentionHeads", [
      "num_attention_heads",
      "n_head",
      "num_heads",
      "encoder_attention_heads",
    ]),
  };
}

/** The first of these entries of a `config.json` that is a number. */
export function sizeIn(config: ModelConfig, keys: readonly string[]): number | undefined {
  return keys.map((key) => config[key]).find((value) => typeof value === "number");
}

function missingSize(config: PromptLearningConfig, name: string): ConfigError {
  return new ConfigError(
    "CONFIG_SIZE",
    name === "numVirtualTokens"
      ? `A ${config.peftType} config must say how many virtual tokens there are: set numVirtualTokens.`
      : `The model's config.json does not say ${name}. Please specify ${name} in the ${config.peftType} config.`,
    { field: name },
  );
}

function fail(error: Error): never {
  throw error;
}
