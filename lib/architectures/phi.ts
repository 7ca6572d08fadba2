/**
 * Phi 1, 1.5 and 2 (Gunasekar et al., 2023, arXiv:2306.11644), whose blocks attend and transform at
 * one time.
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
  const { boolean, rate } = configReader(config);
  const c = readTransformer(config, { activation: "gelu_new" });
  const norms = boolean("qk_layernorm", false) && { qNorm: "q_layernorm", kNorm: "k_layernorm" };
  return {
    ...c,
    names: { embedding: "embed_tokens", layers: "layers", last: "final_layernorm" },
    layer: () => ({
      attention: {
        at: "self_attn",
        q: "q_proj",
        k: "k_proj",
        v: "v_proj",
        output: "dense",
        ...norms,
      },
      feed: { at: "mlp", up: "fc1", down: "fc2" },
      beforeAttention: "input_layernorm",
    }),
    parallel: true,
    ropes: { rope: ropeConfig({ partial_rotary_factor: 0.5, ...config }, c.headSize) },
    dropout: {
      embedding: rate("embd_pdrop"),
      attention: rate("attention_dropout"),
      residual: rate("resid_pdrop"),
    },
  };
}

/** Phi. */
export const phi: Architecture = {
  ...transformerRules(readConfig),
  name: "phi",
  modelTypes: ["phi"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({ tied: false, bias: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenScoreHead,
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /rotary_emb\.inv_freq$/,
};
