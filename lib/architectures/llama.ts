/**
 * The llama family: Llama, Mistral, SmolLM2 and Qwen2/2.5/3, which differ by config only.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { answerHead, bodyAt, languageHead, lastTokenHead, tokenScoreHead } from "./heads.ts";
import type { Transformer } from "./transformer.ts";

function readConfig(config: ModelConfig): Transformer {
  const { optionalSize, number, boolean, list } = configReader(config);
  const type = config.model_type as string, isQwen = type.startsWith("qwen");
  const third = type === "qwen3";
  const c = readDecoder(third ? { head_dim: 128, ...config } : config, { headNorms: third });
  const window = optionalSize("sliding_window");
  const sliding = boolean("use_sliding_window", !isQwen) ? window : null;
  const kinds = list("layer_types");
  return {
    ...c,
    bias: type === "qwen2" ? { ...c.bias, qkv: true, output: false } : c.bias,
    window: (layer) => {
      if (kinds) return kinds[layer] === "sliding_attention" ? sliding : null;
      if (type === "mistral") return sliding;
      return isQwen && layer >= number("max_window_layers", 28) ? sliding : null;
    },
  };
}

/** Llama (Touvron et al., 2023, arXiv:2302.13971), SmolLM2 and Qwen2/2.5/3. */
export const llama: Architecture = {
  ...decoderRules(readConfig),
  name: "llama",
  modelTypes: ["llama", "qwen2", "qwen3", "smollm"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({ tied: false }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenScoreHead,
    QUESTION_ANS: bodyAt("transformer", answerHead),
    FEATURE_EXTRACTION: null,
  },
};

/** Mistral (Jiang et al., 2023, arXiv:2310.06825). */
export const mistral: Architecture = {
  ...llama,
  name: "mistral",
  modelTypes: ["mistral"],
  heads: { ...llama.heads, QUESTION_ANS: answerHead },
};
