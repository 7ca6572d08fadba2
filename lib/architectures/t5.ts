/**
 * T5 (Raffel et al., 2020, arXiv:1910.10683), T5 1.1, Flan-T5, mT5 (Xue et al., 2020,
 * arXiv:2010.11934) and UMT5 (Chung et al., 2023, arXiv:2304.09151): an encoder and a decoder, whose
 * attention knows how far apart tokens are by a bias on its scores alone.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { type Activation, ACTIVATIONS } from "../ops/activations.ts";
import { configReader, EPSILON } from "./config-reader.ts";
import { encoderDecoder } from "./encoder-decoder.ts";
import { endTokenHead } from "./end-token-head.ts";
import { answerHead, bodyAt, languageHead, tokenHead } from "./heads.ts";
import type { Transformer } from "./transformer.ts";

/** Activations by `feed_forward_proj`; transformers' gated-gelu is the approximation. */
const FEED_FORWARDS: Readonly<Record<string, Activation>> = Object.fromEntries(
  Object.entries(ACTIVATIONS).flatMap(([name, activation]) => [
    [name, activation],
    [`gated-${name}`, name === "gelu" ? ACTIVATIONS.gelu_new : activation],
  ]),
);

/** What a config says about the encoder or the decoder. */
function readHalf(given: ModelConfig, half: "encoder" | "decoder"): Transformer {
  const feed_forward_proj = given.model_type === "t5" ? "relu" : "gated-gelu";
  const config: ModelConfig = { feed_forward_proj, ...given };
  const { size, choice, number, rate } = configReader(config), isDecoder = half === "decoder";
  const layers = size("num_layers", 6), dropout = rate("dropout_rate", 0.1);
  const names = { q: "q", k: "k", v: "v", output: "o" }, feed = isDecoder ? 2 : 1;
  const isGated = String(config.feed_forward_proj).startsWith("gated-");
  return {
    vocab: size("vocab_size", 32128),
    hidden: size("d_model", 512),
    headSize: size("d_kv", 64),
    inner: size("d_ff", 2048),
    layers: isDecoder ? size("num_decoder_layers", layers) : layers,
    heads: size("num_heads", 8),
    norm: { kind: "rms", epsilon: number("layer_norm_epsilon", 1e-6, EPSILON) },
    names: { embedding: "embed_tokens", layers: "block", last: "final_layer_norm" },
    layer: (i) => ({
      attention: {
        at: "layer.0.SelfAttention",
        ...names,
        // The first block's table stands for all but in UMT5.
        distances: i === 0 || config.model_type === "umt5" ? "relative_attention_bias" : undefined,
      },
      beforeAttention: "layer.0.layer_norm",
      ...(isDecoder && {
        cross: { at: "layer.1.EncDecAttention", ...names },
        beforeCross: "layer.1.layer_norm",
      }),
      feed: {
        at: `layer.${feed}.DenseReluDense`,
        gate: isGated ? "wi_0" : undefined,
        up: isGated ? "wi_1" : "wi",
        down: "wo",
      },
      beforeFeed: `layer.${feed}.layer_norm`,
    }),
    bias: { qkv: false, output: false, feed: false },
    activation: choice("feed_forward_proj", "relu", FEED_FORWARDS),
    scale: () => 1,
    distances: {
      buckets: size("relative_attention_num_buckets", 32),
      maxDistance: size("relative_attention_max_distance", 128, 1 << 16),
    },
    dropout: {
      embedding: dropout,
      attention: dropout,
      residual: dropout,
      inner: dropout,
      last: dropout,
    },
  };
}

/** T5, mT5 and UMT5. */
export const t5: Architecture = {
  name: "t5",
  modelTypes: ["t5", "mt5", "umt5"],
  bodyPath: "",
  body: (m, config, task) =>
    encoderDecoder(m, {
      shared: "shared",
      encoder: readHalf(config, "encoder"),
      decoder: task === "TOKEN_CLS" ? undefined : readHalf(config, "decoder"),
    }),
  completeConfig: (config) => ({ ...config, scale_decoder_outputs: isScaled(config) }),
  heads: {
    // Whatever the config says: checkpoints of T5 1.1 on may hold a head of their own.
    SEQ_2_SEQ_LM: languageHead({
      tied: "always",
      scale: (config) => isScaled(config) ? configReader(config).size("d_model", 512) ** -0.5 : 1,
    }),
    FEATURE_EXTRACTION: null,
    SEQ_CLS: bodyAt("transformer", endTokenHead(1)),
    TOKEN_CLS: bodyAt("transformer", tokenHead((c) => configReader(c).rate("classifier_dropout"))),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: /EncDecAttention\.relative_attention_bias\.weight$/,
  initializerRange: (config) => 0.05 * configReader(config).number("initializer_factor", 1),
};

/** Whether the hidden state is scaled before the head; a T5 config of transformers 4 says it by its tie. */
function isScaled(config: ModelConfig): boolean {
  if (config.model_type !== "t5") return config.model_type === "umt5";
  const { boolean } = configReader(config);
  return boolean("scale_decoder_outputs", boolean("tie_word_embeddings", true));
}
