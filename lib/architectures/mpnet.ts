/**
 * MPNet (Song et al., 2020, arXiv:2004.09297), which many sentence encoders are made of.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { tanh } from "../ops/elementwise.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, firstTokenHead, tokenHead } from "./heads.ts";
import { encoderRules, readEncoder } from "./post-norm-encoder.ts";

const dropout = (config: ModelConfig) => readEncoder(config).dropout;

/** MPNet. */
export const mpnet: Architecture = {
  ...encoderRules((config) => ({
    ...readEncoder(config),
    offset: 2,
    types: null,
    tables: ["positions", "norm"],
    names: { self: "attn", parts: ["q", "k", "v"], output: ["attn", "o"] },
    distances: configReader(config).size("relative_attention_num_buckets", 32),
  })),
  name: "mpnet",
  modelTypes: ["mpnet"],
  bodyPath: "mpnet",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: firstTokenHead(tanh, dropout),
    TOKEN_CLS: tokenHead(dropout),
    QUESTION_ANS: answerHead,
  },
};
