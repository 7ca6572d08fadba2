/**
 * What most decoders since Llama have in common: RMSNorm, rotated heads in groups, and a gated feed
 * forward.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { configReader, EPSILON } from "./config-reader.ts";
import { ropeConfig } from "./rope-config.ts";
import type { LayerNames } from "./transformer-layer.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

/** What configs do not say of a decoder. */
export interface DecoderKind {
  /** Whether queries and keys have norms. */
  readonly headNorms?: boolean;
  /** Whether norms stand before attention and feed forward, as by default, after them, or both. */
  readonly norms?: "before" | "after" | "both";
  /** Whether queries, keys and values come out of one layer, and gate and values of another. */
  readonly fused?: boolean;
}

function layerNames({ headNorms, norms = "before", fused }: DecoderKind): LayerNames {
  const before = norms !== "after", after = norms !== "before";
  const parts = { q: "q_proj", k: "k_proj", v: "v_proj", output: "o_proj" };
  return {
    attention: {
      at: "self_attn",
      ...(fused ? { output: "o_proj", qkv: "qkv_proj" } : parts),
      ...(headNorms && { qNorm: "q_norm", kNorm: "k_norm" }),
    },
    feed: {
      at: "mlp",
      ...(fused ? { gateUp: "gate_up_proj" } : { gate: "gate_proj", up: "up_proj" }),
      down: "down_proj",
    },
    beforeAttention: before ? "input_layernorm" : undefined,
    // Its name stays where norms stand on both sides, and so means another place.
    ...(after
      ? {
        attended: "post_attention_layernorm",
        beforeFeed: before ? "pre_feedforward_layernorm" : undefined,
        fed: "post_feedforward_layernorm",
      }
      : { beforeFeed: "post_attention_layernorm" }),
  };
}

/** What a config says about a decoder in the way of Llama's. */
export function readDecoder(config: ModelConfig, kind: DecoderKind = {}): Transformer {
  const { size, optionalSize, number, boolean, rate, choice, list } = configReader(config);
  const heads = size("num_attention_heads"), hidden = size("hidden_size");
  const keyHeads = size("num_key_value_heads", heads);
  const headSize = size("head_dim", hidden / heads, 1 << 16);
  if (heads % keyHeads || headSize % 2) {
    throw new ConfigError(
      "MODEL_CONFIG",
      `The config of a ${config.model_type} model has ${heads} heads for ${keyHeads} of keys and values, each of size ${headSize}: ` +
        "the first must be a multiple of the second, and the size even.",
      { heads, keyHeads, headSize },
    );
  }
  const bias = boolean("attention_bias", false), window = optionalSize("sliding_window");
  const kinds = list("layer_types");
  return {
    names: { embedding: "embed_tokens", layers: "layers", last: "norm" },
    layer: () => layerNames(kind),
    vocab: size("vocab_size"),
    hidden,
    inner: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    keyHeads,
    headSize,
    bias: { qkv: bias, output: bias, feed: boolean("mlp_bias", false) },
    norm: { kind: "rms", epsilon: number("rms_norm_eps", 1e-6, EPSILON) },
    activation: choice("hidden_act", "silu", ACTIVATIONS),
    window: (layer) => kinds?.[layer] === "sliding_attention" ? window : null,
    ropes: { rope: ropeConfig(config, headSize) },
    dropout: { attention: rate("attention_dropout") },
  };
}

/** What an architecture of such decoders says beside its heads. */
export function decoderRules(
  read: (config: ModelConfig, task: string) => Transformer,
): ReturnType<typeof transformerRules> & { readonly ignoredKeys: RegExp } {
  const rules = transformerRules(read);
  return {
    ...rules,
    ignoredKeys: /rotary_emb\.inv_freq$/,
    maxPositions: (config) =>
      config.max_position_embeddings == null ? Infinity : rules.maxPositions(config),
  };
}
