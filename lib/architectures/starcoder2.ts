/**
 * StarCoder 2 (Lozhkov et al., 2024, arXiv:2402.19173).
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { languageHead, lastTokenHead, tokenScoreHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-config.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const { boolean, optionalSize, rate } = configReader(config);
  const fields = { epsilon: "norm_epsilon" }, window = optionalSize("sliding_window");
  const c = readTransformer(config, { fields, activation: "gelu_pytorch_tanh" });
  const bias = boolean("use_bias", true);
  return {
    ...c,
    names: { embedding: "embed_tokens", layers: "layers", last: "norm" },
    layer: () => ({
      attention: { at: "self_attn", q: "q_proj", k: "k_proj", v: "v_proj", output: "o_proj" },
      feed: { at: "mlp", up: "c_fc", down: "c_proj" },
      beforeAttention: "input_layernorm",
      beforeFeed: "post_attention_layernorm",
    }),
    bias: { qkv: bias, output: bias, feed: bias },
    window: () => window,
    ropes: { rope: ropeConfig(config, c.headSize) },
    dropout: {
      embedding: rate("embedding_dropout"),
      attention: rate("attention_dropout"),
      residual: rate("residual_dropout"),
    },
  };
}

/** StarCoder 2. */
export const starcoder2: Architecture = {
  ...transformerRules(readConfig),
  name: "starcoder2",
  modelTypes: ["starcoder2"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenScoreHead,
    FEATURE_EXTRACTION: null,
  },
};
