/**
 * BART (Lewis et al., 2019, arXiv:1910.13461): an encoder and a decoder with learned positions.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { encoderDecoder } from "./encoder-decoder.ts";
import { endTokenHead } from "./end-token-head.ts";
import { answerHead, languageHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import type { Transformer } from "./transformer.ts";

const NAMES = { k: "k_proj", v: "v_proj", q: "q_proj", output: "out_proj" };

/** What a config says about the encoder or the decoder. */
function readHalf(given: ModelConfig, half: "encoder" | "decoder"): Transformer {
  const sizes = { layers: 12, attention_heads: 16, ffn_dim: 4096 };
  const named = Object.entries(sizes).map(([name, size]) => [`${half}_${name}`, size]);
  const config = { d_model: 1024, ...Object.fromEntries(named), ...given };
  const { size, boolean, rate } = configReader(config);
  const c = readTransformer(config, {
    fields: {
      hidden: "d_model",
      inner: `${half}_ffn_dim`,
      layers: `${half}_layers`,
      heads: `${half}_attention_heads`,
      activation: "activation_function",
    },
  });
  const dropout = rate("dropout", 0.1), isDecoder = half === "decoder";
  return {
    ...c,
    norm: { kind: "layer", epsilon: 1e-5 },
    names: {
      embedding: "embed_tokens",
      positions: "embed_positions",
      layers: "layers",
      norm: "layernorm_embedding",
    },
    layer: () => ({
      attention: { at: "self_attn", ...NAMES },
      afterAttention: "self_attn_layer_norm",
      cross: isDecoder ? { at: "encoder_attn", ...NAMES } : undefined,
      afterCross: isDecoder ? "encoder_attn_layer_norm" : undefined,
      feed: { up: "fc1", down: "fc2" },
      afterFeed: "final_layer_norm",
    }),
    embeddingScale: boolean("scale_embedding", config.model_type === "plbart")
      ? Math.sqrt(c.hidden)
      : 1,
    positions: { rows: size("max_position_embeddings", 1024) + 2, offset: 2 },
    dropout: {
      embedding: dropout,
      attention: rate("attention_dropout"),
      residual: dropout,
      inner: rate("activation_dropout"),
    },
  };
}

/** What an architecture in the way of BART's says, with what it changes of each half. */
export function bartRules(
  change: (half: Transformer, config: ModelConfig) => Partial<Transformer> = () => ({}),
): Omit<Architecture, "name" | "modelTypes"> {
  const half = (config: ModelConfig, name: "encoder" | "decoder") => {
    const c = readHalf(config, name);
    return { ...c, ...change(c, config) };
  };
  return {
    bodyPath: "model",
    body: (m, config) =>
      encoderDecoder(m, {
        shared: "shared",
        encoder: half(config, "encoder"),
        decoder: half(config, "decoder"),
      }),
    heads: {
      SEQ_2_SEQ_LM: languageHead({ tied: "always" }),
      FEATURE_EXTRACTION: null,
    },
    // A buffer of zeros, which nothing trains.
    ignoredKeys: /^final_logits_bias$/,
    initializerRange: (config) => configReader(config).number("init_std", 0.02),
  };
}

/** The head of its kind for classes of texts. */
export const bartClasses = endTokenHead(2);

const rules = bartRules();

/** BART. */
export const bart: Architecture = {
  ...rules,
  name: "bart",
  modelTypes: ["bart"],
  heads: { ...rules.heads, SEQ_CLS: bartClasses, QUESTION_ANS: answerHead },
};
