/**
 * Prefix tuning (Li and Liang, 2021, arXiv:2101.00190): keys and values of N virtual tokens, trained
 * in the place of any weight, stand before those of the text in every layer. Every token sees them;
 * the tokens' positions start at N.
 *
 * With `prefixProjection` the prefix is what an encoder makes of N trained embeddings: W₂·tanh(W₁·e
 * + b₁) + b₂. PEFT saves the prefix, not the encoder, so an adapter that comes from a file has none.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { attentionLayers, type ModelGraph, writtenSequence } from "../model/model-graph.ts";
import { computedOn } from "../model/computed.ts";
import { add, tanh } from "../ops/elementwise.ts";
import { input } from "../ops/input.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { createGraph, type Value } from "../ops/value.ts";
import { castTensor } from "../tensor/convert.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { commonFields, type ConfigSchema, field, parseConfig } from "./config.ts";
import { kaimingUniform } from "./lora/lora-init.ts";
import type {
  AdapterPlace,
  AdapterTrace,
  CachePrefix,
  LeafRule,
  Leaves,
  PeftMethod,
} from "./method.ts";
import {
  completePromptConfig,
  optionalSize,
  promptFields,
  type PromptLearningConfig,
  promptSizes,
  sizeIn,
} from "./prompt-config.ts";
import type { TorchRandom } from "./torch-random.ts";

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

const schema: ConfigSchema<PrefixTuningConfig> = {
  peftType: "PREFIX_TUNING",
  keyPrefix: "base_model.",
  example: { numVirtualTokens: 3 },
  fields: {
    ...commonFields("PREFIX_TUNING"),
    ...promptFields(),
    initWeights: z.literal("zero").nullable().default(null).describe('"zero" or null'),
    encoderHiddenSize: optionalSize(),
    prefixProjection: field.boolean(false),
  },
  fit: completePrefixConfig,
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
 * import { getPeftModel, prefixTuningConfig, tinyModel, trainableLeaves } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, prefixTuningConfig({ numVirtualTokens: 5 }));
 * for (const { shape } of trainableLeaves(model).values()) console.log(shape); // [5, 128]
 * ```
 */
export function prefixTuningConfig(config: Partial<PrefixTuningConfig> = {}): PrefixTuningConfig {
  return parseConfig(schema, config);
}

/**
 * Fills in the sizes: those of the model's keys and values, which are fewer than the queries' in
 * grouped-query attention.
 *
 * @throws {ConfigError} where sizes are missing or are not those of the model.
 */
function completePrefixConfig(
  given: PrefixTuningConfig,
  model: ModelGraph,
): PrefixTuningConfig {
  const config = completePromptConfig(given, model);
  const { dim, heads, layers } = promptSizes(config);
  const attention = attentionLayers(model, writtenSequence(model));
  const keys = {
    layers: attention.length,
    heads: attention[0].keyHeads,
    headSize: attention[0].headSize,
  };
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

/** The key under which PEFT saves the prefix, and the name of the leaf that is one. */
const PREFIX = "prompt_embeddings";

/** The method `PREFIX_TUNING`. */
export const prefixTuning: PeftMethod<PrefixTuningConfig> = {
  name: "prefix_tuning",
  config: schema,
  leaves: { adapter: leafRules },
  pass: {
    virtualTokens: (config) => promptSizes(config).tokens,
    memory: tracePrefix,
  },
};

/** Whether the prefix comes out of an encoder, which only training has. */
function isProjected({ prefixProjection, inferenceMode }: PrefixTuningConfig): boolean {
  return prefixProjection && !inferenceMode;
}

/** Elements of keys and values of one token in all layers. */
function width(config: PrefixTuningConfig): number {
  const { layers, dim } = promptSizes(config);
  return 2 * layers * dim;
}

/** Takes the random numbers that torch's embedding and linear layers take, in PEFT's order. */
function leafRules(
  { config, model }: AdapterPlace<PrefixTuningConfig>,
): Readonly<Record<string, LeafRule>> {
  const { tokens, dim } = promptSizes(config);
  const zero = config.initWeights === "zero";
  const rule = (
    shape: readonly number[],
    draw: (random: TorchRandom) => Float32Array<ArrayBuffer>,
    { key = null, zero = false }: { readonly key?: string | null; readonly zero?: boolean } = {},
  ): LeafRule => ({
    shape,
    key,
    init: ({ random }) => zero ? draw(random).fill(0) : draw(random),
  });
  const table = (shape: readonly number[]) => (random: TorchRandom) => random.normal(sizeOf(shape));
  const prefix = [tokens, width(config)];
  if (!isProjected(config)) return { [PREFIX]: rule(prefix, table(prefix), { key: PREFIX, zero }) };
  const hidden = config.encoderHiddenSize ?? dim, embeddings = [tokens, dim];
  const linear = (name: string, [outputs, features]: readonly [number, number], zero = false) => {
    const size = outputs * features, bound = 1 / Math.sqrt(features);
    return {
      [`${name}_weight`]: rule(
        [outputs, features],
        (random) => kaimingUniform(random, { size, features }),
        { zero },
      ),
      [`${name}_bias`]: rule(
        [outputs],
        (random) => random.uniform(outputs, { low: -bound, high: bound }),
        { zero },
      ),
    };
  };
  return {
    embedding_weight: rule(embeddings, table(embeddings)),
    ...linear("transform_0", [hidden, dim]),
    ...linear("transform_2", [width(config), hidden], zero),
    [PREFIX]: {
      shape: prefix,
      kind: "derived",
      saved: (leaves) => projected(leaves, model),
    },
  };
}

function tracePrefix({ config, shared }: AdapterTrace<PrefixTuningConfig>): CachePrefix {
  const { tokens, dim, heads } = promptSizes(config);
  const flat = isProjected(config) ? traceProjection(shared) : shared[PREFIX];
  // [N, layer, key or value, head, element of the head]
  const part = (index: number) =>
    reshape(sliceAxis(flat, { axis: 1, start: index * dim, size: dim }), [
      tokens,
      heads,
      dim / heads,
    ]);
  return {
    length: tokens,
    layer: (index) => ({ k: part(2 * index), v: part(2 * index + 1) }),
  };
}

function traceProjection(shared: Readonly<Record<string, Value>>): Value {
  const layer = (x: Value, n: 0 | 2) =>
    add(
      matmul(x, shared[`transform_${n}_weight`], { transposeB: true }),
      shared[`transform_${n}_bias`],
    );
  return layer(tanh(layer(shared.embedding_weight, 0)), 2);
}

/** What the encoder makes of its embeddings, computed when it is asked for. */
function projected(leaves: Leaves, { device }: ModelGraph): Tensor {
  const graph = createGraph();
  const inputs = Object.entries(leaves).map(([name, leaf]) =>
    [name, castTensor(leaf, "f32")] as const
  );
  const values = inputs.map(([name, { shape }]) =>
    [name, input(graph, name, { shape, dtype: "f32" })] as const
  );
  const output = traceProjection(Object.fromEntries(values));
  return computedOn(device, { output }, Object.fromEntries(inputs)).output;
}
