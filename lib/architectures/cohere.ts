/**
 * Command R and Aya (Cohere, 2024), whose blocks attend and transform at one time.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { languageHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-frequencies.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const { boolean, rate } = configReader(config), bias = boolean("attention_bias", false);
  if (boolean("use_qk_norm", false)) {
    throw new UnsupportedError(
      "COHERE_NORM",
      "A cohere model with use_qk_norm true has a norm for each head, which is not supported.",
    );
  }
  const c = readTransformer(config, { activation: "silu" });
  const rotary = ropeConfig({ rope_theta: 500_000, ...config }, c.headSize);
  return {
    ...c,
    norm: { ...c.norm, bias: false },
    names: { embedding: "embed_tokens", layers: "layers", last: "norm" },
    layer: () => ({
      attention: { at: "self_attn", q: "q_proj", k: "k_proj", v: "v_proj", output: "o_proj" },
      feed: { at: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj" },
      beforeAttention: "input_layernorm",
    }),
    bias: { qkv: bias, output: bias, feed: false },
    parallel: true,
    ropes: { rope: { ...rotary, interleaved: true } },
    dropout: { attention: rate("attention_dropout") },
  };
}

/** Command R. */
export const cohere: Architecture = {
  ...transformerRules(readConfig),
  name: "cohere",
  modelTypes: ["cohere"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({
      tied: true,
      scale: (config) => configReader(config).number("logit_scale", 0.0625),
    }),
    FEATURE_EXTRACTION: null,
  },
};
