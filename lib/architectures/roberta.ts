/**
 * RoBERTa (Liu et al., 2019, arXiv:1907.11692), XLM-RoBERTa (Conneau et al., 2019, arXiv:1911.02116)
 * and CamemBERT (Martin et al., 2019, arXiv:1911.03894).
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { tanh } from "../ops/elementwise.ts";
import {
  BERT_BUFFERS,
  BERT_NAMES,
  bertDropout,
  GAMMA_AND_BETA,
  readBert,
  withPooler,
} from "./bert.ts";
import { answerHead, firstTokenHead, tokenHead } from "./heads.ts";
import { tokenTypeInputs } from "./token-types.ts";
import { transformerRules } from "./transformer.ts";

/** In torch's order. */
const { embedding, types, norm, positions, layers } = BERT_NAMES;

/** RoBERTa. */
export const roberta: Architecture = {
  ...transformerRules((config, task) => {
    const c = readBert(config), offset = Number(config.pad_token_id ?? 1) + 1;
    const names = { embedding, types, norm, positions, layers };
    return {
      ...c,
      names: withPooler(names, task, "FEATURE_EXTRACTION"),
      positions: { ...c.positions!, offset },
    };
  }),
  name: "roberta",
  modelTypes: ["roberta", "xlm-roberta", "camembert"],
  bodyPath: "roberta",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: firstTokenHead(tanh, bertDropout),
    TOKEN_CLS: tokenHead(bertDropout),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: BERT_BUFFERS,
  inputs: (config) => tokenTypeInputs(config, 2),
  oldKeys: GAMMA_AND_BETA,
};
