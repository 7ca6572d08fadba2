/**
 * MPNet (Song et al., 2020, arXiv:2004.09297), which many sentence encoders are made of.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { tanh } from "../ops/elementwise.ts";
import { BERT_BUFFERS, BERT_NAMES, readBert, withPooler } from "./bert.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, firstTokenHead, tokenHead } from "./heads.ts";
import { transformerRules } from "./transformer.ts";

const dropout = (config: ModelConfig) => readBert(config).dropout.residual!;
const { types: _, ...embeddings } = BERT_NAMES;

/** MPNet. */
export const mpnet: Architecture = {
  ...transformerRules((config, task) => {
    const c = readBert(config), buckets = configReader(config);
    const names = { ...embeddings, distances: "encoder.relative_attention_bias" };
    return {
      ...c,
      names: withPooler(names, task, "FEATURE_EXTRACTION"),
      layer: (i) => ({
        ...c.layer(i),
        attention: {
          at: "attention",
          self: "attn",
          q: "attn.q",
          k: "attn.k",
          v: "attn.v",
          output: "attn.o",
        },
        afterAttention: "attention.LayerNorm",
      }),
      positions: { ...c.positions!, offset: 2 },
      types: null,
      distances: { buckets: buckets.size("relative_attention_num_buckets", 32), maxDistance: 128 },
    };
  }),
  name: "mpnet",
  modelTypes: ["mpnet"],
  bodyPath: "mpnet",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: firstTokenHead(tanh, dropout),
    TOKEN_CLS: tokenHead(dropout),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: BERT_BUFFERS,
};
