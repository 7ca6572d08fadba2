/**
 * GPT-J (Wang and Komatsuzaki, 2021), whose blocks attend and transform at one time.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, languageHead, lastTokenHead } from "./heads.ts";
import { GPT2_FIELDS, readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-config.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

/** What a config in the way of GPT-J's says. */
export function readGptj(config: ModelConfig): Transformer {
  const { size, rate } = configReader(config), activation = "gelu_new";
  const maxPositions = size("n_positions", 2048);
  const rotary = ropeConfig({ max_position_embeddings: maxPositions }, size("rotary_dim", 64));
  return {
    ...readTransformer(config, { fields: GPT2_FIELDS, inner: (n) => 4 * n, activation }),
    names: { embedding: "wte", layers: "h", last: "ln_f" },
    layer: () => ({
      beforeAttention: "ln_1",
      attention: { at: "attn", k: "k_proj", v: "v_proj", q: "q_proj", output: "out_proj" },
      feed: { at: "mlp", up: "fc_in", down: "fc_out" },
    }),
    bias: { qkv: false, output: false },
    parallel: true,
    ropes: { rope: { ...rotary, interleaved: true } },
    dropout: {
      embedding: rate("embd_pdrop"),
      attention: rate("attn_pdrop"),
      residual: rate("resid_pdrop"),
    },
  };
}

/** GPT-J. */
export const gptj: Architecture = {
  ...transformerRules(readGptj),
  name: "gptj",
  modelTypes: ["gptj"],
  bodyPath: "transformer",
  heads: {
    CAUSAL_LM: languageHead({ tied: false, bias: true }),
    SEQ_CLS: lastTokenHead,
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /\.attn\.(bias|masked_bias|embed_positions)$/,
};
