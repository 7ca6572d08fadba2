/**
 * ELECTRA (Clark et al., 2020, arXiv:2003.10555), whose embeddings may be smaller than what follows.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { gelu } from "../ops/functions.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, firstTokenHead, tokenHead } from "./heads.ts";
import { classifierDropout, encoderRules, readEncoder } from "./post-norm-encoder.ts";

/** ELECTRA. */
export const electra: Architecture = {
  ...encoderRules((config) => ({
    ...readEncoder(config),
    embedding: configReader(config).size("embedding_size", 128),
    isPooled: () => false,
  })),
  name: "electra",
  modelTypes: ["electra"],
  bodyPath: "electra",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: firstTokenHead(gelu, classifierDropout),
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
  },
};
