/**
 * OPT (Zhang et al., 2022, arXiv:2205.01068), with learned positions.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, languageHead, lastTokenHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const { size, boolean, rate, refuse } = configReader(config);
  const fields = { inner: "ffn_dim", activation: "activation_function" };
  const c = readTransformer(config, { fields, activation: "relu" });
  const before = boolean("do_layer_norm_before", true), bias = boolean("enable_bias", true);
  const last = before && !boolean("_remove_final_layer_norm", false);
  refuse("layer_norm_elementwise_affine", false, "has norms without weights");
  return {
    ...c,
    norm: { kind: "layer", epsilon: 1e-5 },
    names: {
      embedding: "decoder.embed_tokens",
      positions: "decoder.embed_positions",
      projectBack: "decoder.project_out",
      project: "decoder.project_in",
      last: last ? "decoder.final_layer_norm" : undefined,
      layers: "decoder.layers",
    },
    layer: () => ({
      attention: { at: "self_attn", k: "k_proj", v: "v_proj", q: "q_proj", output: "out_proj" },
      [before ? "beforeAttention" : "afterAttention"]: "self_attn_layer_norm",
      feed: { up: "fc1", down: "fc2" },
      [before ? "beforeFeed" : "afterFeed"]: "final_layer_norm",
    }),
    embedding: size("word_embed_proj_dim", c.hidden),
    steps: ["project", "positions"],
    positions: { rows: size("max_position_embeddings", 2048) + 2, offset: 2 },
    bias: { qkv: bias, output: bias, feed: bias, project: false },
    dropout: { attention: rate("attention_dropout"), residual: rate("dropout", 0.1) },
  };
}

/** OPT. */
export const opt: Architecture = {
  ...transformerRules(readConfig),
  name: "opt",
  modelTypes: ["opt"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  uncounted: () => "padding",
  initializerRange: (config) => configReader(config).number("init_std", 0.02),
};
