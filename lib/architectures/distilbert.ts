/**
 * DistilBERT (Sanh et al., 2019, arXiv:1910.01108).
 *
 * @module
 */
import type { Architecture, Head, ModelConfig } from "../model/architecture.ts";
import { relu } from "../ops/functions.ts";
import { BERT_BUFFERS, BERT_NAMES } from "./bert.ts";
import { configReader } from "./config-reader.ts";
import { answerHead, classes, tokenHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { firstRows } from "./text-rows.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

const FIELDS = {
  hidden: "dim",
  inner: "hidden_dim",
  layers: "n_layers",
  heads: "n_heads",
  activation: "activation",
};

function readConfig(config: ModelConfig): Transformer {
  const { size, rate } = configReader(config), dropout = rate("dropout", 0.1);
  return {
    ...readTransformer(config, { fields: FIELDS }),
    norm: { kind: "layer", epsilon: 1e-12 },
    names: { ...BERT_NAMES, types: undefined, layers: "transformer.layer" },
    layer: () => ({
      attention: { at: "attention", q: "q_lin", k: "k_lin", v: "v_lin", output: "out_lin" },
      afterAttention: "sa_layer_norm",
      feed: { at: "ffn", up: "lin1", down: "lin2" },
      afterFeed: "output_layer_norm",
    }),
    positions: { rows: size("max_position_embeddings", 512) },
    causal: false,
    dropout: {
      embedding: dropout,
      attention: rate("attention_dropout", 0.1),
      attended: 0,
      residual: dropout,
    },
  };
}

const head: Head = (m, { config, body }) => {
  const { hidden } = body, rate = configReader(config).rate("seq_classif_dropout", 0.2);
  const first = m.linear("pre_classifier", { in: hidden, out: hidden }, { head: true });
  const classifier = m.linear("classifier", classes(config, body), { head: true });
  return (pass, outputs) => {
    const pooled = relu(first(firstRows(outputs.lastHiddenState)));
    return { ...outputs, logits: classifier(pass.dropout(pooled, rate)) };
  };
};

/** DistilBERT. */
export const distilBert: Architecture = {
  ...transformerRules(readConfig),
  name: "distilbert",
  modelTypes: ["distilbert"],
  bodyPath: "distilbert",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: head,
    TOKEN_CLS: tokenHead((config) => configReader(config).rate("dropout", 0.1)),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: BERT_BUFFERS,
};
