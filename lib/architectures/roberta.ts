/**
 * RoBERTa (Liu et al., 2019, arXiv:1907.11692), XLM-RoBERTa (Conneau et al., 2019, arXiv:1911.02116)
 * and CamemBERT (Martin et al., 2019, arXiv:1911.03894).
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { tanh } from "../ops/elementwise.ts";
import { answerHead, firstTokenHead, tokenHead } from "./heads.ts";
import { classifierDropout, encoderRules, readEncoder } from "./post-norm-encoder.ts";

/** RoBERTa. */
export const roberta: Architecture = {
  ...encoderRules((config) => ({
    ...readEncoder(config),
    offset: Number(config.pad_token_id ?? 1) + 1,
    tables: ["types", "norm", "positions"],
  })),
  name: "roberta",
  modelTypes: ["roberta", "xlm-roberta", "camembert"],
  bodyPath: "roberta",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: firstTokenHead(tanh, classifierDropout),
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
  },
  oldKeys: [[/LayerNorm\.gamma$/, "LayerNorm.weight"], [/LayerNorm\.beta$/, "LayerNorm.bias"]],
};
