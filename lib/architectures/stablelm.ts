/**
 * StableLM (Bellagente et al., 2024, arXiv:2402.17834).
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { phi3 } from "./phi3.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-config.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const { boolean, rate, refuse } = configReader(config);
  refuse("qk_layernorm", true, "has a norm for each head");
  const c = readTransformer(config, { activation: "silu" });
  const parallel = boolean("use_parallel_residual", false);
  return {
    ...c,
    names: { embedding: "embed_tokens", layers: "layers", last: "norm" },
    layer: () => ({
      attention: { at: "self_attn", q: "q_proj", k: "k_proj", v: "v_proj", output: "o_proj" },
      feed: { at: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj" },
      beforeAttention: "input_layernorm",
      beforeFeed: parallel ? undefined : "post_attention_layernorm",
    }),
    bias: { qkv: boolean("use_qkv_bias", false), output: false, feed: false },
    parallel,
    ropes: { rope: ropeConfig({ partial_rotary_factor: 0.25, ...config }, c.headSize) },
    dropout: {
      attention: rate("attention_dropout"),
      attended: 0,
      residual: rate("hidden_dropout"),
    },
  };
}

/** StableLM. */
export const stableLm: Architecture = {
  ...transformerRules(readConfig),
  name: "stablelm",
  modelTypes: ["stablelm"],
  bodyPath: "model",
  heads: phi3.heads,
  ignoredKeys: /rotary_emb\.inv_freq$/,
};
