/**
 * Mixtral (Jiang et al., 2024, arXiv:2401.04088): Mistral with a mixture of experts in each layer.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { mistral } from "./llama.ts";
import { balanceOf, mixtureOf, readMixture } from "./mixture.ts";

/** Mixtral. */
export const mixtral: Architecture = {
  ...mistral,
  ...decoderRules((config, task) => {
    const window = configReader(config).optionalSize("sliding_window");
    const experts = { ...readMixture(config, "intermediate_size"), normalized: true };
    return {
      ...readDecoder({ rms_norm_eps: 1e-5, rope_theta: 1e6, ...config, attention_bias: false }),
      window: () => window,
      feedForward: mixtureOf(() => experts),
      routed: balanceOf(config, task),
    };
  }),
  name: "mixtral",
  modelTypes: ["mixtral"],
  oldKeys: [[/\.block_sparse_moe\./, ".mlp."]],
  stacked: { parts: { gate_up_proj: ["w1", "w3"], down_proj: ["w2"] }, targets: true },
};
