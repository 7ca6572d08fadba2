/**
 * DeBERTa v2 and v3 (He et al., 2020, arXiv:2006.03654; 2021, arXiv:2111.09543), whose attention
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
import type { Modules } from "../model/modules.ts";
import { iota } from "../ops/iota.ts";
import { ACTIVATIONS } from "./activations.ts";
import { BERT_BUFFERS, BERT_NAMES } from "./bert.ts";
import { configReader } from "./config-reader.ts";
import { disentangledAttention, type Distances } from "./disentangled-attention.ts";
import { answerHead, classes, firstRows, tokenHead } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { tokenTypeInputs } from "./token-types.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

const { layers, norm, ...tables } = BERT_NAMES;

function readConfig(config: ModelConfig): Transformer {
  const { size, number, boolean, rate } = configReader(config);
  if (number("conv_kernel_size", 0) > 0) {
    throw new UnsupportedError(
      "DEBERTA_CONVOLUTION",
      "A deberta-v2 model with a convolution (conv_kernel_size) is not supported; v3 has none.",
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
        q: "self.query_proj",
        k: "self.key_proj",
        v: "self.value_proj",
        output: "output.dense",
      },
      afterAttention: "attention.output.LayerNorm",
      feed: { up: "intermediate.dense", down: "output.dense" },
      afterFeed: "output.LayerNorm",
    }),
    embedding: size("embedding_size", c.hidden),
    steps: ["positions", "types", "project", "norm", "dropout"],
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

function readDistances(config: ModelConfig): Distances | null {
  const { size, number, boolean } = configReader(config);
  if (!boolean("relative_attention", false)) return null;
  const kinds = words(config.pos_att_type);
  const asked = number("max_relative_positions", -1), buckets = number("position_buckets", -1);
  const largest = asked < 1 ? size("max_position_embeddings", 512) : asked;
  return {
    span: buckets > 0 ? buckets : largest,
    buckets,
    largest,
    shared: boolean("share_att_key", false),
    byQuery: kinds.includes("c2p"),
    byKey: kinds.includes("p2c"),
  };
}

/** What a config lists, in one text or in several. */
function words(given: unknown): string[] {
  const list = typeof given === "string" ? given.toLowerCase().split("|") : given;
  return Array.isArray(list) ? list.map((word) => String(word).trim()) : [];
}

function body(m: Modules, config: ModelConfig, task: string): Body {
  const c = readConfig(config), distances = readDistances(config), encoder = m.at("encoder");
  const table = (pass: ArchitecturePass) => {
    const rows = all!(iota(pass.graph, [2 * distances!.span], { axis: 0 }));
    return pass.dropout(allNorm?.(rows) ?? rows, dropoutOf(config));
  };
  const body = transformerRules(() => ({
    ...c,
    attentionLayer: (m, c, { names }) => disentangledAttention(m, c, { names, distances, table }),
  })).body(m, config, task);
  const all = distances &&
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

/** DeBERTa v2 and v3. */
export const deberta: Architecture = {
  ...transformerRules(readConfig),
  name: "deberta-v2",
  modelTypes: ["deberta-v2"],
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
