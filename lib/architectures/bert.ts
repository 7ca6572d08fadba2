/**
 * BERT (Devlin et al., 2019, arXiv:1810.04805): an encoder, whose tokens all see one another.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { answerHead, pooledHead, tokenHead } from "./heads.ts";
import { classifierDropout, encoderRules, readEncoder } from "./post-norm-encoder.ts";

/** BERT. */
export const bert: Architecture = {
  ...encoderRules((config) => ({
    ...readEncoder(config),
    isPooled: (task) => task === "SEQ_CLS" || task === "FEATURE_EXTRACTION",
  })),
  name: "bert",
  modelTypes: ["bert"],
  bodyPath: "bert",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: pooledHead(classifierDropout),
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
  },
  // As the first checkpoints were written.
  oldKeys: [[/LayerNorm\.gamma$/, "LayerNorm.weight"], [/LayerNorm\.beta$/, "LayerNorm.bias"]],
};
