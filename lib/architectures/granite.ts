/**
 * Granite (IBM, 2024), which is Llama with factors.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { languageHead } from "./heads.ts";

/** Granite. */
export const granite: Architecture = {
  ...decoderRules((config) => {
    const { number } = configReader(config);
    return {
      ...readDecoder(config),
      embeddingScale: number("embedding_multiplier", 1),
      residualScale: number("residual_multiplier", 1),
      scale: () => number("attention_multiplier", 1),
    };
  }),
  name: "granite",
  modelTypes: ["granite"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({
      tied: false,
      scale: (config) => 1 / configReader(config).number("logits_scaling", 1),
    }),
    FEATURE_EXTRACTION: null,
  },
};
