/**
 * BERT (Devlin et al., 2019, arXiv:1810.04805): an encoder, whose tokens all see one another.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, pooledHead, tokenHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { tokenTypeInputs } from "./token-types.ts";
import { type BodyNames, type Transformer, transformerRules } from "./transformer.ts";

/** Names of an encoder in the way of BERT's. */
export const BERT_NAMES: BodyNames = {
  embedding: "embeddings.word_embeddings",
  positions: "embeddings.position_embeddings",
  types: "embeddings.token_type_embeddings",
  norm: "embeddings.LayerNorm",
  layers: "encoder.layer",
};

/** What a config says about one. */
export function readBert(config: ModelConfig, epsilon = 1e-12): Transformer {
  const { size, rate, refuse } = configReader(config);
  refuse("is_decoder", true, "reads from left to right");
  const dropout = rate("hidden_dropout_prob", 0.1);
  return {
    ...readTransformer(config, { epsilon }),
    names: BERT_NAMES,
    layer: () => ({
      attention: {
        at: "attention",
        self: "self",
        q: "self.query",
        k: "self.key",
        v: "self.value",
        output: "output.dense",
      },
      afterAttention: "attention.output.LayerNorm",
      feed: { up: "intermediate.dense", down: "output.dense" },
      afterFeed: "output.LayerNorm",
    }),
    positions: { rows: size("max_position_embeddings", 512) },
    types: size("type_vocab_size", 2),
    causal: false,
    dropout: {
      embedding: dropout,
      attention: rate("attention_probs_dropout_prob", 0.1),
      residual: dropout,
    },
  };
}

/** The dropout before a classifier. */
export function bertDropout(config: ModelConfig): number {
  const { rate } = configReader(config);
  return rate("classifier_dropout", rate("hidden_dropout_prob", 0.1));
}

/** Names with those of a pooler, for tasks that have one. */
export function withPooler(names: BodyNames, task: string, ...tasks: string[]): BodyNames {
  return { ...names, pooler: tasks.includes(task) ? "pooler.dense" : undefined };
}

/** What the first checkpoints call the parameters of norms. */
export const GAMMA_AND_BETA: Architecture["oldKeys"] = [
  [/LayerNorm\.gamma$/, "LayerNorm.weight"],
  [/LayerNorm\.beta$/, "LayerNorm.bias"],
];

/** Buffers in checkpoints. */
export const BERT_BUFFERS = /embeddings\.(position|token_type)_ids$/;

/** BERT. */
export const bert: Architecture = {
  ...transformerRules((config, task) => ({
    ...readBert(config),
    names: withPooler(BERT_NAMES, task, "SEQ_CLS", "FEATURE_EXTRACTION"),
  })),
  name: "bert",
  modelTypes: ["bert"],
  bodyPath: "bert",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: pooledHead(bertDropout),
    TOKEN_CLS: tokenHead(bertDropout),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: BERT_BUFFERS,
  inputs: (config) => tokenTypeInputs(config, 2),
  oldKeys: GAMMA_AND_BETA,
};
