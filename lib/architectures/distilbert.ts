/**
 * DistilBERT (Sanh et al., 2019, arXiv:1910.01108).
 *
 * @module
 */
import type { Architecture, Body, Head, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add } from "../ops/elementwise.ts";
import { relu } from "../ops/functions.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, headSizeOf, RATE } from "./config-reader.ts";
import { answerHead, classes, firstRows, tokenHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { headLayers, joinHeads } from "./split-heads.ts";

interface DistilBertConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  readonly positions: number;
  readonly activation: Activation;
  readonly dropout: number;
  readonly attentionDropout: number;
}

function readConfig(config: ModelConfig): DistilBertConfig {
  const { size, number, choice } = configReader(config);
  const hidden = size("dim"), heads = size("n_heads");
  return {
    vocab: size("vocab_size"),
    hidden,
    inner: size("hidden_dim"),
    layers: size("n_layers"),
    heads,
    headSize: headSizeOf(config, { hidden, heads }),
    positions: size("max_position_embeddings", 512),
    activation: choice("activation", "gelu", ACTIVATIONS),
    dropout: number("dropout", 0.1, RATE),
    attentionDropout: number("attention_dropout", 0.1, RATE),
  };
}

function attention(m: Modules, c: DistilBertConfig): (x: Value) => Value {
  const { hidden, heads, headSize } = c;
  const attend = m.attention({ features: hidden, heads, headSize });
  const sizes = { in: hidden, out: hidden };
  const [q, k, v] = headLayers(m, ["q_lin", "k_lin", "v_lin"], { ...sizes, heads });
  const out = m.linear("out_lin", sizes);
  return (x) =>
    attend({
      q: q(x),
      over: x,
      keyValues: (x) => ({ k: k(x), v: v(x) }),
      project: (y) => out(joinHeads(y)),
      causal: false,
      dropout: c.attentionDropout,
    });
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, inner } = c;
  const norm = { kind: "layer", epsilon: 1e-12 } as const;
  const at = m.at("embeddings"), rows = c.positions;
  const embedding = at.embedding("word_embeddings", { rows: c.vocab, size: hidden });
  const places = at.embedding("position_embeddings", { rows, size: hidden }, { positions: rows });
  const first = at.norm("LayerNorm", hidden, norm);
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("transformer").at("layer").at(i);
    return {
      attention: attention(at.at("attention"), c),
      between: at.norm("sa_layer_norm", hidden, norm),
      up: at.at("ffn").linear("lin1", { in: hidden, out: inner }),
      down: at.at("ffn").linear("lin2", { in: inner, out: hidden }),
      after: at.norm("output_layer_norm", hidden, norm),
    };
  });
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      let h = pass.dropout(
        first(add(pass.embedded(embedding(ids)), places(positions))),
        c.dropout,
      );
      for (const { attention, between, up, down, after } of layers) {
        const x = pass.boundary(h);
        h = between(add(attention(x), x));
        h = after(add(pass.dropout(down(c.activation(up(h))), c.dropout), h));
      }
      return { lastHiddenState: h };
    },
  };
}

const head: Head = (m, { config, body }) => {
  const { hidden } = body, rate = configReader(config).number("seq_classif_dropout", 0.2, RATE);
  const first = m.linear("pre_classifier", { in: hidden, out: hidden }, { head: true });
  const classifier = m.linear("classifier", classes(config, body), { head: true });
  return (pass, outputs) => {
    const pooled = relu(first(firstRows(outputs.lastHiddenState)));
    return { ...outputs, logits: classifier(pass.dropout(pooled, rate)) };
  };
};

/** DistilBERT. */
export const distilBert: Architecture = {
  name: "distilbert",
  modelTypes: ["distilbert"],
  bodyPath: "distilbert",
  body,
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: head,
    TOKEN_CLS: tokenHead((config) => readConfig(config).dropout),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: /embeddings\.position_ids$/,
};
