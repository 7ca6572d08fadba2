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
import { add } from "../ops/binary.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { tanh } from "../ops/unary.ts";
import type { Value } from "../ops/value.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { parseConfig } from "./config.ts";
import { kaimingUniform } from "./lora/lora-init.ts";
import type {
  CachePrefix,
  LeafShapes,
  Leaves,
  PeftMethod,
  SharedContext,
  SharedTrace,
  SiteLeaves,
} from "./method.ts";
import {
  completePrefixConfig,
  type PrefixTuningConfig,
  prefixTuningSchema,
} from "./prefix-tuning-config.ts";
import { promptSizes } from "./prompt-config.ts";

/** The key under which PEFT saves the prefix, and the name of the leaf that is one. */
const PREFIX = "prompt_embeddings";

/** The method `PREFIX_TUNING`. */
export const prefixTuning: PeftMethod<PrefixTuningConfig> = {
  peftType: "PREFIX_TUNING",
  prefix: "prefix_tuning_",
  keyPrefix: "base_model.",
  parseConfig: (config) => parseConfig(prefixTuningSchema, config),
  completeConfig: completePrefixConfig,
  siteKinds: [],
  defaultTargets: {},
  leafShapes: () => ({}),
  init: () => Promise.resolve({ leaves: {}, frozen: {} }),
  sharedShapes: (config): LeafShapes => ({ leaves: shapes(config), frozen: {} }),
  initShared: (context) => Promise.resolve(initPrefix(context)),
  frozenShared: () => Promise.resolve({}),
  sharedKeys: (config): Readonly<Record<string, string>> =>
    isProjected(config) ? {} : { [PREFIX]: PREFIX },
  derivedTensors: (config, { leaves }) =>
    new Map(isProjected(config) ? [[PREFIX, projectedTensor(config, leaves)]] : []),
  cachePrefix: tracePrefix,
  prefixLength: (config) => promptSizes(config).tokens,
  forward: ({ result }) => result,
  keyOf: (leaf) => leaf,
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

function shapes(config: PrefixTuningConfig): Readonly<Record<string, readonly number[]>> {
  const { tokens, dim } = promptSizes(config);
  if (!isProjected(config)) return { [PREFIX]: [tokens, width(config)] };
  const hidden = config.encoderHiddenSize ?? dim;
  return {
    embedding_weight: [tokens, dim],
    transform_0_weight: [hidden, dim],
    transform_0_bias: [hidden],
    transform_2_weight: [width(config), hidden],
    transform_2_bias: [width(config)],
  };
}

/** Takes the random numbers that torch's embedding and linear layers take, in PEFT's order. */
function initPrefix({ config, random }: SharedContext<PrefixTuningConfig>): SiteLeaves {
  const all = shapes(config), projected = isProjected(config);
  const table = projected ? "embedding_weight" : PREFIX;
  const values: Record<string, Float32Array> = {
    [table]: random.normal(sizeOf(all[table])),
  };
  for (const layer of projected ? ["transform_0", "transform_2"] : []) {
    const [outputs, features] = all[`${layer}_weight`];
    const bound = 1 / Math.sqrt(features);
    values[`${layer}_weight`] = kaimingUniform(random, { size: outputs * features, features });
    values[`${layer}_bias`] = random.uniform(outputs, { low: -bound, high: bound });
  }
  if (config.initWeights === "zero") {
    for (const leaf of projected ? ["transform_2_weight", "transform_2_bias"] : [PREFIX]) {
      values[leaf].fill(0);
    }
  }
  const leaves = Object.entries(values)
    .map(([leaf, data]) => [leaf, tensor(data, { shape: all[leaf] })]);
  return { leaves: Object.fromEntries(leaves), frozen: {} };
}

function tracePrefix({ config, shared }: SharedTrace<PrefixTuningConfig>): CachePrefix {
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

/** What the encoder makes of its embeddings, computed on the host when it is asked for. */
function projectedTensor(config: PrefixTuningConfig, leaves: Leaves): Tensor {
  const { tokens } = promptSizes(config);
  let contents: Promise<Float32Array<ArrayBuffer>> | undefined;
  return {
    dtype: "f32",
    shape: [tokens, width(config)],
    where: "host",
    data: () => contents ??= project(leaves, tokens),
  };
}

async function project(leaves: Leaves, tokens: number): Promise<Float32Array<ArrayBuffer>> {
  const [e, w1, b1, w2, b2] = await Promise.all([
    leaves.embedding_weight,
    leaves.transform_0_weight,
    leaves.transform_0_bias,
    leaves.transform_2_weight,
    leaves.transform_2_bias,
  ].map(toFloat32));
  const hidden = affine(e, { weight: w1, bias: b1, rows: tokens }).map(Math.tanh);
  return new Float32Array(affine(hidden, { weight: w2, bias: b2, rows: tokens }));
}

/** x·wᵀ + b, summed in f64. */
function affine(
  x: Float32Array | Float64Array,
  layer: {
    readonly weight: Float32Array;
    readonly bias: Float32Array;
    readonly rows: number;
  },
): Float64Array {
  const { weight, bias, rows } = layer;
  const features = x.length / rows, outputs = bias.length;
  const y = new Float64Array(rows * outputs);
  for (let o = 0; o < outputs; o++) {
    for (let row = 0; row < rows; row++) {
      let sum = bias[o];
      for (let i = 0; i < features; i++) sum += x[row * features + i] * weight[o * features + i];
      y[row * outputs + o] = sum;
    }
  }
  return y;
}
