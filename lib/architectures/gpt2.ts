/**
 * GPT-2 (Radford et al., 2019), whose linear layers are stored [in, out].
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, classifierDropout, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { GPT2_FIELDS, readTransformer } from "./read-transformer.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

/** What a config in the way of GPT-2's says. */
export function readGpt2(config: ModelConfig, activation = "gelu_new"): Transformer {
  const { size, boolean, rate } = configReader(config);
  const c = readTransformer(config, { fields: GPT2_FIELDS, inner: (n) => 4 * n, activation });
  const scaled = boolean("scale_attn_weights", true) ? c.headSize ** -0.5 : 1;
  const byLayer = boolean("scale_attn_by_inverse_layer_idx", false);
  return {
    ...c,
    names: { embedding: "wte", positions: "wpe", layers: "h", last: "ln_f" },
    layer: () => ({
      beforeAttention: "ln_1",
      attention: { at: "attn", qkv: "c_attn", output: "c_proj" },
      beforeFeed: "ln_2",
      feed: { at: "mlp", up: "c_fc", down: "c_proj" },
    }),
    positions: { rows: size("n_positions", 1024) },
    scale: (layer) => scaled / (byLayer ? layer + 1 : 1),
    dropout: {
      embedding: rate("embd_pdrop", 0.1),
      attention: rate("attn_pdrop", 0.1),
      residual: rate("resid_pdrop", 0.1),
    },
  };
}

/** GPT-2. */
export const gpt2: Architecture = {
  ...transformerRules((config) => ({ ...readGpt2(config), stored: "in-out" })),
  name: "gpt2",
  modelTypes: ["gpt2"],
  bodyPath: "transformer",
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  classEndings: { CAUSAL_LM: "LMHeadModel" },
  ignoredKeys: /\.attn\.(bias|masked_bias)$/,
};
