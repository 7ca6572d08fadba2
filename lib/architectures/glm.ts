/**
 * GLM-4 (Team GLM, 2024, arXiv:2406.12793), its Edge models and GLM-4-0414.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { phi3 } from "./phi3.ts";
import type { Transformer } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const otherwise = { partial_rotary_factor: 0.5, head_dim: 128, attention_bias: true };
  const c = readDecoder({ rms_norm_eps: 1.5625e-7, ...otherwise, ...config });
  const after = { attended: "post_self_attn_layernorm", fed: "post_mlp_layernorm" };
  return {
    ...c,
    layer: (i) => ({
      ...c.layer(i),
      feed: { at: "mlp", gateUp: "gate_up_proj", down: "down_proj" },
      ...(config.model_type === "glm4" && after),
    }),
    bias: { ...c.bias, output: false, feed: false },
    ropes: { rope: { ...c.ropes!.rope, interleaved: true } },
  };
}

/** GLM-4. */
export const glm: Architecture = {
  ...decoderRules(readConfig),
  name: "glm",
  modelTypes: ["glm", "glm4"],
  bodyPath: "model",
  heads: phi3.heads,
};
