/**
 * SmolLM3 (Hugging Face, 2025): Llama, every fourth layer of which rotates nothing.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { languageHead } from "./heads.ts";
import { llama } from "./llama.ts";

/** SmolLM3. */
export const smolLm3: Architecture = {
  ...llama,
  ...decoderRules((config) => {
    const { boolean, optionalSize, size, list } = configReader(config), kinds = list("layer_types");
    const rotated = list("no_rope_layers"), interval = size("no_rope_layer_interval", 4);
    const isRotated = (i: number) => rotated ? Boolean(rotated[i]) : (i + 1) % interval !== 0;
    const window = boolean("use_sliding_window", false) ? optionalSize("sliding_window") : null;
    const isLocal = (i: number) => kinds ? kinds[i] === "sliding_attention" : !isRotated(i);
    return {
      ...readDecoder({ rope_theta: 2e6, ...config }),
      rope: (i) => isRotated(i) ? "rope" : null,
      window: (i) => isLocal(i) ? window : null,
    };
  }),
  heads: { ...llama.heads, CAUSAL_LM: languageHead({ tied: true }) },
  name: "smollm3",
  modelTypes: ["smollm3"],
};
