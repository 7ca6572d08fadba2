/**
 * Falcon (Almazrouei et al., 2023, arXiv:2311.16867), whose queries share keys and values.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-frequencies.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

const FIELDS = {
  inner: "ffn_hidden_size",
  keyHeads: "num_kv_heads",
  activation: "activation",
  epsilon: "layer_norm_epsilon",
};

/** As the first checkpoints, which are of types RefinedWeb and RefinedWebModel, say it. */
function named(config: ModelConfig): ModelConfig {
  const { n_head: num_attention_heads, n_layer: num_hidden_layers, n_head_kv } = config;
  const [num_kv_heads, new_decoder_architecture] = [n_head_kv, n_head_kv !== undefined];
  const own = { num_attention_heads, num_hidden_layers, num_kv_heads, new_decoder_architecture };
  return { ...own, ...config };
}

function readConfig(given: ModelConfig): Transformer {
  const config = named(given);
  const { size, boolean, rate } = configReader(config);
  if (boolean("alibi", false)) {
    throw new UnsupportedError(
      "FALCON_ALIBI",
      "A falcon model with alibi true rounds its distances to bfloat16, which is not supported.",
    );
  }
  const c = readTransformer(config, { fields: FIELDS, inner: (n) => 4 * n });
  const isNew = boolean("new_decoder_architecture", false), bias = boolean("bias", false);
  const isShared = !isNew && boolean("multi_query", true);
  const parallel = isNew || boolean("parallel_attn", true), dropout = rate("hidden_dropout");
  const hasTwo = isNew && size("num_ln_in_parallel_attn", 2) === 2;
  const norms = hasTwo ? { beforeAttention: "ln_attn", beforeFeed: "ln_mlp" } : {
    beforeFeed: parallel ? undefined : "post_attention_layernorm",
    beforeAttention: "input_layernorm",
  };
  return {
    ...c,
    keyHeads: isShared ? 1 : isNew ? c.keyHeads : c.heads,
    names: { embedding: "word_embeddings", layers: "h", last: "ln_f" },
    layer: () => ({
      attention: { at: "self_attention", qkv: "query_key_value", output: "dense" },
      feed: { at: "mlp", up: "dense_h_to_4h", down: "dense_4h_to_h" },
      ...norms,
    }),
    fused: { groups: isShared ? 1 : isNew ? c.keyHeads : c.heads },
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
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead((config) => {
      const { rate } = configReader(config);
      return rate("classifier_dropout", rate("hidden_dropout"));
    }),
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
};
