/**
 * GPT-BigCode, as SantaCoder (Ben Allal et al., 2023, arXiv:2301.03988) and StarCoder (Li et al.,
 * 2023, arXiv:2305.06161) are: GPT-2 whose queries share keys and values.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { readGpt2 } from "./gpt2.ts";
import { classifierDropout, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { transformerRules } from "./transformer.ts";

/** GPT-BigCode. */
export const gptBigCode: Architecture = {
  ...transformerRules((config) => {
    const c = readGpt2(config, "gelu_pytorch_tanh");
    const isShared = configReader(config).boolean("multi_query", true);
    return { ...c, ...(isShared ? { keyHeads: 1 } : { fused: { groups: c.heads } }) };
  }),
  name: "gpt_bigcode",
  modelTypes: ["gpt_bigcode"],
  bodyPath: "transformer",
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead(classifierDropout),
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /\.attn\.(bias|masked_bias)$|^transformer\.bias$/,
};
