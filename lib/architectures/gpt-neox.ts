/**
 * GPT-NeoX (Black et al., 2022, arXiv:2204.06745) and Pythia (Biderman et al., 2023,
 * arXiv:2304.01373), whose blocks attend and transform at one time.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-config.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const { boolean, rate } = configReader(config), c = readTransformer(config);
  const bias = boolean("attention_bias", true), dropout = rate("hidden_dropout");
  const { rotary_pct = 0.25, rotary_emb_base = 10000 } = config;
  const rotary = { partial_rotary_factor: rotary_pct, rope_theta: rotary_emb_base, ...config };
  return {
    ...c,
    names: { embedding: "embed_in", layers: "layers", last: "final_layer_norm" },
    layer: () => ({
      beforeAttention: "input_layernorm",
      beforeFeed: "post_attention_layernorm",
      attention: { at: "attention", qkv: "query_key_value", output: "dense" },
      feed: { at: "mlp", up: "dense_h_to_4h", down: "dense_4h_to_h" },
    }),
    fused: { groups: c.heads },
    bias: { qkv: bias, output: bias },
    parallel: boolean("use_parallel_residual", true),
    ropes: { rope: ropeConfig(rotary, c.headSize) },
    dropout: { embedding: dropout, attention: rate("attention_dropout"), residual: dropout },
  };
}

/** GPT-NeoX. */
export const gptNeox: Architecture = {
  ...transformerRules(readConfig),
  name: "gpt_neox",
  modelTypes: ["gpt_neox"],
  bodyPath: "gpt_neox",
  heads: {
    CAUSAL_LM: languageHead({ tied: false }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead((config) => configReader(config).rate("classifier_dropout", 0.1)),
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$/,
  oldKeys: [[/^embed_out\./, "lm_head."]],
};
