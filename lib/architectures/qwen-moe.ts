/**
 * Qwen's mixtures of experts: Qwen1.5-MoE and Qwen2-MoE (Yang et al., 2024, arXiv:2407.10671), and
 * Qwen3-MoE (Yang et al., 2025, arXiv:2505.09388).
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { llama, mistral } from "./llama.ts";
import { balanceOf, mixtureOf, readMixture } from "./mixture.ts";
import type { Transformer } from "./transformer.ts";

const parts = { gate_up_proj: ["gate_proj", "up_proj"], down_proj: ["down_proj"] };

function readConfig(config: ModelConfig, task: string): Transformer {
  const { size, optionalSize, number, boolean, list } = configReader(config);
  const second = config.model_type === "qwen2_moe";
  const c = readDecoder(config, { headNorms: !second });
  const experts = { ...readMixture(config, "moe_intermediate_size"), routerLast: !second };
  const step = size("decoder_sparse_step", 1), dense = list("mlp_only_layers") ?? [];
  const window = boolean("use_sliding_window", false) ? optionalSize("sliding_window") : null;
  const kinds = list("layer_types"), most = number("max_window_layers", 28);
  const isLocal = (layer: number) =>
    !second || (kinds ? kinds[layer] === "sliding_attention" : layer % 2 === 0 && layer < most);
  return {
    ...c,
    bias: second ? { ...c.bias, qkv: boolean("qkv_bias", true), output: false } : c.bias,
    window: (layer) => isLocal(layer) ? window : null,
    routed: balanceOf(config, task),
    feedForward: mixtureOf(
      (layer) => dense.includes(layer) || (layer + 1) % step ? null : experts,
      second ? size("shared_expert_intermediate_size") : undefined,
    ),
  };
}

/** Qwen2-MoE. */
export const qwen2Moe: Architecture = {
  ...mistral,
  ...decoderRules(readConfig),
  name: "qwen2_moe",
  modelTypes: ["qwen2_moe"],
  stacked: { parts, targets: false },
};

/** Qwen3-MoE. */
export const qwen3Moe: Architecture = {
  ...qwen2Moe,
  name: "qwen3_moe",
  modelTypes: ["qwen3_moe"],
  heads: llama.heads,
  stacked: { parts, targets: true },
};
