/**
 * EXAONE 4 (LG AI Research, 2025, arXiv:2507.11407), whose norms stand behind what they normalise.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { llama } from "./llama.ts";

/** EXAONE 4. */
export const exaone4: Architecture = {
  ...llama,
  ...decoderRules((config) => {
    const { optionalSize, size, list } = configReader(config), kinds = list("layer_types");
    const window = optionalSize("sliding_window"), pattern = size("sliding_window_pattern", 4);
    const isLocal = (i: number) =>
      kinds ? kinds[i] === "sliding_attention" : window !== null && (i + 1) % pattern !== 0;
    return {
      ...readDecoder({ rms_norm_eps: 1e-5, ...config }, { norms: "after", headNorms: true }),
      rope: (i) => window === null || isLocal(i) ? "rope" : null,
      window: (i) => isLocal(i) ? window : null,
    };
  }),
  name: "exaone4",
  modelTypes: ["exaone4"],
};
