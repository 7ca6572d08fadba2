/**
 * DeBERTa (He et al., 2020, arXiv:2006.03654), v2 and v3 (2021, arXiv:2111.09543), whose attention
 * compares what tokens say with how far they are from one another.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type {
  Architecture,
  ArchitecturePass,
  Body,
  Head,
  ModelConfig,
} from "../model/architecture.ts";
import type { Layer, Modules } from "../model/modules.ts";
import { iota } from "../ops/iota.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { BERT_BUFFERS, BERT_NAMES } from "./bert.ts";
import { configReader } from "./config-reader.ts";
import { readDistances, words } from "./deberta-distances.ts";
import { disentangledAttention } from "./disentangled-attention.ts";
import { answerHead, classes, tokenHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { firstRows } from "./text-rows.ts";
import { tokenTypeInputs } from "./token-types.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

const { layers, norm, ...tables } = BERT_NAMES;

const PROJECTIONS = { q: "self.query_proj", k: "self.key_proj", v: "self.value_proj" };

function readConfig(config: ModelConfig): Transformer {
  const { size, number, boolean, rate } = configReader(config);
  if (number("conv_kernel_size", 0) > 0 || boolean("talking_head", false)) {
    throw new UnsupportedError(
      "DEBERTA_CONVOLUTION",
      "A deberta model with a convolution (conv_kernel_size) or talking heads (talking_head) is not supported; v3 has none.",
    );
  }
  const c = readTransformer(config, { epsilon: 1e-7 });
  const types = Math.max(number("type_vocab_size", 0), 0);
  const isPlaced = boolean("position_biased_input", true);
  return {
    ...c,
    headSize: size("attention_head_size", c.headSize),
    names: {
      ...tables,
      positions: isPlaced ? tables.positions : undefined,
      types: types ? tables.types : undefined,
      project: "embeddings.embed_proj",
      norm,
      layers,
    },
    layer: () => ({
      attention: {
        at: "attention",
        self: "self",
        ...(config.model_type === "deberta" ? { qkv: "self.in_proj" } : PROJECTIONS),
        output: "output.dense",
      },
      afterAttention: "attention.output.LayerNorm",
      feed: { up: "intermediate.dense", down: "output.dense" },
      afterFeed: "output.LayerNorm",
    }),
    embedding: size("embedding_size", c.hidden),
    steps: ["positions", "types", "project", "norm", "mask", "dropout"],
    positions: { rows: size("max_position_embeddings", 512) },
    types,
    bias: { project: false },
    dropout: {
      embedding: dropoutOf(config),
      attention: rate("attention_probs_dropout_prob", 0.1),
      residual: dropoutOf(config),
    },
  };
}

const dropoutOf = (config: ModelConfig) => configReader(config).rate("hidden_dropout_prob", 0.1);

function body(m: Modules, config: ModelConfig, task: string): Body {
  const c = readConfig(config), distances = readDistances(config), encoder = m.at("encoder");
  const table = (pass: ArchitecturePass) => {
    const rows = (all as Layer)(iota(pass.graph, [2 * distances.span], { axis: 0 }));
    return pass.dropout(allNorm?.(rows) ?? rows, dropoutOf(config));
  };
  const body = transformerRules(() => ({
    ...c,
    attentionLayer: (m, c, { names }) => disentangledAttention(m, c, { names, distances, table }),
  })).body(m, config, task);
  const all = distances.isUsed &&
    encoder.embedding("rel_embeddings", { rows: 2 * distances.span, size: c.hidden });
  const isNormed = words(config.norm_rel_ebd).includes("layer_norm");
  const allNorm = isNormed ? encoder.norm("LayerNorm", c.hidden, c.norm) : undefined;
  return body;
}

const head: Head = (m, { config, body }) => {
  const { rate, choice } = configReader(config), { hidden } = body;
  const pooler = m.at("pooler").linear("dense", { in: hidden, out: hidden }, { head: true });
  const classifier = m.linear("classifier", classes(config, body), { head: true });
  const activation = choice("pooler_hidden_act", "gelu", ACTIVATIONS);
  const before = rate("pooler_dropout"), between = rate("cls_dropout", dropoutOf(config));
  return (pass, outputs) => {
    const rows = pass.dropout(firstRows(outputs.lastHiddenState), before);
    const pooled = pass.dropout(activation(pooler(rows)), between);
    return { ...outputs, logits: classifier(pooled) };
  };
};

/** DeBERTa, v2 and v3. */
export const deberta: Architecture = {
  ...transformerRules(readConfig),
  name: "deberta",
  modelTypes: ["deberta", "deberta-v2"],
  bodyPath: "deberta",
  body,
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: head,
    TOKEN_CLS: tokenHead(dropoutOf),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: BERT_BUFFERS,
  inputs: (config) => tokenTypeInputs(config, 0),
};
