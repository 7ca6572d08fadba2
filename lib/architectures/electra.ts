/**
 * ELECTRA (Clark et al., 2020, arXiv:2003.10555), whose embeddings may be smaller than what follows.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { gelu } from "../ops/functions.ts";
import { BERT_BUFFERS, BERT_NAMES, bertDropout, readBert } from "./bert.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, firstTokenHead, tokenHead } from "./heads.ts";
import { tokenTypeInputs } from "./token-types.ts";
import { transformerRules } from "./transformer.ts";

const { layers, ...embeddings } = BERT_NAMES;

/** ELECTRA. */
export const electra: Architecture = {
  ...transformerRules((config) => ({
    ...readBert(config),
    names: { ...embeddings, project: "embeddings_project", layers },
    embedding: configReader(config).size("embedding_size", 128),
    steps: ["positions", "types", "norm", "dropout", "project"],
  })),
  name: "electra",
  modelTypes: ["electra"],
  bodyPath: "electra",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: firstTokenHead(gelu, bertDropout),
    TOKEN_CLS: tokenHead(bertDropout),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: BERT_BUFFERS,
  inputs: (config) => tokenTypeInputs(config, 2),
};
