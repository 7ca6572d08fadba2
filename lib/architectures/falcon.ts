/**
 * Falcon (Almazrouei et al., 2023, arXiv:2311.16867), whose queries share keys and values.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { gpt2 } from "./gpt2.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-config.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

/** The second names are those of the first checkpoints, of types RefinedWeb and RefinedWebModel. */
const FIELDS = {
  inner: "ffn_hidden_size",
  layers: ["num_hidden_layers", "n_layer"],
  heads: ["num_attention_heads", "n_head"],
  keyHeads: ["num_kv_heads", "n_head_kv"],
  activation: "activation",
  epsilon: "layer_norm_epsilon",
};

function readConfig(config: ModelConfig): Transformer {
  const { size, boolean, rate, refuse } = configReader(config);
  refuse("alibi", true, "rounds its distances to bfloat16");
  const c = readTransformer(config, { fields: FIELDS, inner: (n) => 4 * n });
  const isNew = boolean("new_decoder_architecture", config.n_head_kv !== undefined);
  const isShared = !isNew && boolean("multi_query", true);
  const parallel = isNew || boolean("parallel_attn", true), bias = boolean("bias", false);
  const dropout = rate("hidden_dropout");
  const keyHeads = isShared ? 1 : isNew ? c.keyHeads! : c.heads;
  const hasTwo = isNew && size("num_ln_in_parallel_attn", 2) === 2;
  const norms = hasTwo ? { beforeAttention: "ln_attn", beforeFeed: "ln_mlp" } : {
    beforeFeed: parallel ? undefined : "post_attention_layernorm",
    beforeAttention: "input_layernorm",
  };
  return {
    ...c,
    keyHeads,
    names: { embedding: "word_embeddings", layers: "h", last: "ln_f" },
    layer: () => ({
      attention: { at: "self_attention", qkv: "query_key_value", output: "dense" },
      feed: { at: "mlp", up: "dense_h_to_4h", down: "dense_4h_to_h" },
      ...norms,
    }),
    fused: { groups: keyHeads },
    bias: { qkv: bias, output: bias, feed: bias },
    parallel,
    ropes: { rope: ropeConfig(config, c.headSize) },
    dropout: parallel
      ? { attention: 0, sum: dropout }
      : { attention: 0, attended: rate("attention_dropout"), residual: dropout },
  };
}

/** Falcon. */
export const falcon: Architecture = {
  ...transformerRules(readConfig),
  name: "falcon",
  modelTypes: ["falcon", "RefinedWeb", "RefinedWebModel"],
  bodyPath: "transformer",
  heads: gpt2.heads,
};
