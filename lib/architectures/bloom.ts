/**
 * BLOOM (Le Scao et al., 2022, arXiv:2211.05100), whose attention falls off with distance.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { alibi, alibiSlopes } from "./alibi.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { configReader } from "./config-reader.ts";
import { gpt2 } from "./gpt2.ts";
import { GPT2_FIELDS, readTransformer } from "./read-transformer.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

const FIELDS = {
  ...GPT2_FIELDS,
  hidden: ["hidden_size", "n_embed"],
  layers: ["n_layer", "num_hidden_layers"],
  heads: ["n_head", "num_attention_heads"],
};

function readConfig(config: ModelConfig): Transformer {
  const { boolean, rate } = configReader(config);
  const c = readTransformer(config, { fields: FIELDS, inner: (n) => 4 * n });
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
  heads: gpt2.heads,
};
