/**
 * BLOOM (Le Scao et al., 2022, arXiv:2211.05100), whose attention falls off with distance.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { alibi, alibiSlopes } from "./alibi.ts";
import { ACTIVATIONS } from "./activations.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, classifierDropout, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { GPT2_FIELDS, readTransformer } from "./read-transformer.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

function readConfig(given: ModelConfig): Transformer {
  const { n_embed, num_attention_heads: n_head, num_hidden_layers: n_layer } = given;
  const config = { n_head, n_layer, hidden_size: n_embed, ...given };
  const { boolean, rate } = configReader(config);
  const fields = { ...GPT2_FIELDS, hidden: "hidden_size" };
  const c = readTransformer(config, { fields, inner: (n) => 4 * n });
  return {
    ...c,
    inner: 4 * c.hidden,
    activation: ACTIVATIONS.gelu_new,
    names: {
      embedding: "word_embeddings",
      norm: "word_embeddings_layernorm",
      layers: "h",
      last: "ln_f",
    },
    layer: () => ({
      beforeAttention: "input_layernorm",
      attention: { at: "self_attention", qkv: "query_key_value", output: "dense" },
      beforeFeed: "post_attention_layernorm",
      feed: { at: "mlp", up: "dense_h_to_4h", down: "dense_4h_to_h" },
    }),
    fused: { groups: c.heads },
    scoreBias: () => alibi(alibiSlopes(c.heads)),
    addsToNormed: boolean("apply_residual_connection_post_layernorm", false),
    dropout: { attention: rate("attention_dropout"), residual: rate("hidden_dropout") },
  };
}

/** BLOOM. */
export const bloom: Architecture = {
  ...transformerRules(readConfig),
  name: "bloom",
  modelTypes: ["bloom"],
  bodyPath: "transformer",
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
};
