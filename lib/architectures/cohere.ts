/**
 * Command R, Command R7B and Aya (Cohere, 2024), whose blocks attend and transform at one time.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { languageHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-config.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const { boolean, number, optionalSize, rate, list, refuse } = configReader(config);
  const bias = boolean("attention_bias", false);
  refuse("use_qk_norm", true, "has a norm for each head");
  const c = readTransformer(config, { activation: "silu" });
  const isFirst = config.model_type === "cohere", rope_theta = isFirst ? 500_000 : 10_000;
  // The second version rotates the layers only that see near tokens.
  const kinds = list("layer_types"), pattern = number("sliding_window_pattern", 4);
  const isLocal = (i: number) =>
    !isFirst && (kinds ? kinds[i] === "sliding_attention" : (i + 1) % pattern !== 0);
  const window = optionalSize("sliding_window");
  const rotary = ropeConfig({ rope_theta, ...config }, c.headSize);
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
    rope: (i) => isFirst || isLocal(i) ? "rope" : null,
    window: (i) => isLocal(i) ? window : null,
    dropout: { attention: rate("attention_dropout") },
  };
}

/** Command R and its second version. */
export const cohere: Architecture = {
  ...transformerRules(readConfig),
  name: "cohere",
  modelTypes: ["cohere", "cohere2"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({
      tied: true,
      scale: (config) => configReader(config).number("logit_scale", 0.0625),
    }),
    FEATURE_EXTRACTION: null,
  },
};
