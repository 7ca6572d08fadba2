/**
 * The config of prefix tuning: all fields of PEFT's `PrefixTuningConfig`.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { commonFields, type ConfigSchema, field, parseConfig } from "./config.ts";
import {
  completePromptConfig,
  optionalSize,
  promptFields,
  type PromptLearningConfig,
  promptSizes,
  sizeIn,
} from "./prompt-config.ts";

/** A prefix tuning config with every field, as {@link prefixTuningConfig} makes it. */
export interface PrefixTuningConfig extends PromptLearningConfig {
  /** `"PREFIX_TUNING"`. */
  readonly peftType: "PREFIX_TUNING";
  /**
   * `"zero"` starts from keys and values of zero; `null` (default) from random ones. Zero keys still
   * take their share of the attention.
   */
  readonly initWeights: "zero" | null;
  /**
   * Hidden size of the encoder, where `prefixProjection` asks for one; `tokenDim` by default.
   */
  readonly encoderHiddenSize: number | null;
  /**
   * Whether the prefix comes out of an encoder of two layers, which makes training steadier, instead
   * of being trained itself (as in P-Tuning v2, Liu et al., 2021, arXiv:2110.07602). Only what the
   * encoder computes is saved. False by default.
   */
  readonly prefixProjection: boolean;
}

/** The fields of {@link PrefixTuningConfig}. */
export const prefixTuningSchema: ConfigSchema<PrefixTuningConfig> = {
  peftType: "PREFIX_TUNING",
  fields: {
    ...commonFields("PREFIX_TUNING"),
    ...promptFields(),
    peftType: z.literal("PREFIX_TUNING").default("PREFIX_TUNING").describe('"PREFIX_TUNING"'),
    initWeights: z.literal("zero").nullable().default(null).describe('"zero" or null'),
    encoderHiddenSize: optionalSize(),
    prefixProjection: field.boolean(false),
  },
};

/**
 * A complete prefix tuning config (Li and Liang, 2021, arXiv:2101.00190): trained keys and values
 * before those of the text, in every layer.
 *
 * @param config The fields to set, `numVirtualTokens` among them; the others take PEFT's defaults.
 * Sizes that are left out follow from the model.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, prefixTuningConfig, trainableLeaves } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, prefixTuningConfig({ numVirtualTokens: 5 }));
 * for (const { shape } of trainableLeaves(model).values()) console.log(shape); // [5, 128]
 * ```
 */
export function prefixTuningConfig(config: Partial<PrefixTuningConfig> = {}): PrefixTuningConfig {
  return parseConfig(prefixTuningSchema, config);
}

/**
 * Fills in the sizes: those of the model's keys and values, which are fewer than the queries' in
 * grouped-query attention.
 *
 * @throws {ConfigError} where sizes are missing or are not those of the model.
 */
export function completePrefixConfig(
  given: PrefixTuningConfig,
  model: ModelGraph,
): PrefixTuningConfig {
  const config = completePromptConfig(given, model);
  const { dim, heads, layers } = promptSizes(config);
  const keys = model.architecture.cache(model.config);
  const keySize = keys.heads * keys.headSize;
  const grouped = sizeIn(model.config, ["num_key_value_heads"]) !== undefined ||
    keySize !== sizeIn(model.config, ["hidden_size", "n_embd", "d_model"]);
  // Where queries share keys, PEFT turns the sizes of the hidden state into those of the keys.
  const headSize = sizeIn(model.config, ["head_dim"]) ?? Math.floor(dim / heads);
  const fits = grouped
    ? headSize === keys.headSize || given.tokenDim === null && given.numAttentionHeads === null
    : dim === keySize && heads === keys.heads;
  if (!fits) {
    throw new ConfigError(
      "CONFIG_PREFIX_SIZE",
      `A PREFIX_TUNING config with tokenDim ${dim} and numAttentionHeads ${heads} does not fit this ` +
        `model, whose keys and values have ${keys.heads} heads of size ${keys.headSize}. Leave both ` +
        "fields out: they follow from the model.",
      { tokenDim: dim, numAttentionHeads: heads, ...keys },
    );
  }
  if (layers < keys.layers) {
    throw new ConfigError(
      "CONFIG_PREFIX_LAYERS",
      `A PREFIX_TUNING config with numLayers ${layers} leaves layers of the model without a prefix; ` +
        `it has ${keys.layers}. Leave numLayers out: it follows from the model.`,
      { numLayers: layers, layers: keys.layers },
    );
  }
  return {
    ...config,
    tokenDim: keySize,
    numAttentionHeads: keys.heads,
    encoderHiddenSize: config.encoderHiddenSize ?? keySize,
  };
}
