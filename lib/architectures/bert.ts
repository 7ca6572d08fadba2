/**
 * BERT (Devlin et al., 2019, arXiv:1810.04805): an encoder, whose tokens all see one another.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import type { BatchInput } from "../model/batch-input.ts";
import type { Modules } from "../model/modules.ts";
import { add, tanh } from "../ops/elementwise.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, headSizeOf, RATE } from "./config-reader.ts";
import { answerHead, pooledHead, tokenHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { joinHeads, splitHeads } from "./split-heads.ts";

interface BertConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  readonly positions: number;
  readonly types: number;
  readonly activation: Activation;
  readonly epsilon: number;
  readonly dropout: number;
  readonly attentionDropout: number;
}

function readConfig(config: ModelConfig): BertConfig {
  const { size, boolean, choice, number } = configReader(config);
  const hidden = size("hidden_size"), heads = size("num_attention_heads");
  if (boolean("is_decoder", false)) {
    throw new UnsupportedError(
      "BERT_DECODER",
      "A bert model with is_decoder true reads from left to right, which is not supported. Set it to false.",
    );
  }
  return {
    vocab: size("vocab_size"),
    hidden,
    inner: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    headSize: headSizeOf(config, { hidden, heads }),
    positions: size("max_position_embeddings", 512),
    types: size("type_vocab_size", 2),
    activation: choice("hidden_act", "gelu", ACTIVATIONS),
    epsilon: number("layer_norm_eps", 1e-12, EPSILON),
    dropout: number("hidden_dropout_prob", 0.1, RATE),
    attentionDropout: number("attention_probs_dropout_prob", 0.1, RATE),
  };
}

function tokenTypes(config: ModelConfig): BatchInput {
  return {
    name: "tokenTypeIds",
    axes: ["batch", "tokens"],
    dtype: "i32",
    from: 0,
    to: readConfig(config).types - 1,
    otherwise: 0,
    doc:
      "Which part of a text each token is of, such as 0 for a question and 1 for its context [B, T].",
  };
}

function attention(m: Modules, c: BertConfig): (x: Value) => Value {
  const { hidden, heads, headSize } = c;
  const sizes = { in: hidden, out: hidden };
  const self = m.at("self");
  const attend = self.attention({ features: hidden, heads, headSize });
  const [q, k, v] = ["query", "key", "value"].map((name) => {
    const layer = self.linear(name, sizes);
    return (x: Value) => splitHeads(layer(x), heads);
  });
  const out = m.at("output").linear("dense", sizes);
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

function body(m: Modules, config: ModelConfig, task: string): Body {
  const c = readConfig(config), { hidden } = c;
  const norm = (m: Modules) => m.norm("LayerNorm", hidden, { kind: "layer", epsilon: c.epsilon });
  const table = (name: string, rows: number, positions?: number) =>
    m.at("embeddings").embedding(name, { rows, size: hidden }, { positions });
  const embedding = table("word_embeddings", c.vocab);
  const places = table("position_embeddings", c.positions, c.positions);
  const types = table("token_type_embeddings", c.types);
  const first = norm(m.at("embeddings"));
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("encoder").at("layer").at(i);
    return {
      attention: attention(at.at("attention"), c),
      between: norm(at.at("attention").at("output")),
      inner: at.at("intermediate").linear("dense", { in: hidden, out: c.inner }),
      outer: at.at("output").linear("dense", { in: c.inner, out: hidden }),
      after: norm(at.at("output")),
    };
  });
  const pooler = task === "SEQ_CLS" || task === "FEATURE_EXTRACTION"
    ? m.at("pooler").linear("dense", { in: hidden, out: hidden })
    : undefined;
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const rows = add(pass.embedded(embedding(ids)), types(pass.batchInput(tokenTypes(config))));
      let h = pass.dropout(first(add(rows, places(positions))), c.dropout);
      for (const { attention, between, inner, outer, after } of layers) {
        const x = pass.boundary(h);
        h = between(add(pass.dropout(attention(x), c.dropout), x));
        h = after(add(pass.dropout(outer(c.activation(inner(h))), c.dropout), h));
      }
      const start = reshape(sliceAxis(h, { axis: 1, start: 0, size: 1 }), [-1, hidden]);
      return { lastHiddenState: h, ...(pooler && { poolerOutput: tanh(pooler(start)) }) };
    },
  };
}

const classifierDropout = (config: ModelConfig) =>
  configReader(config).number("classifier_dropout", readConfig(config).dropout, RATE);

/** BERT. */
export const bert: Architecture = {
  name: "bert",
  modelTypes: ["bert"],
  bodyPath: "bert",
  body,
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: pooledHead(classifierDropout),
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: /embeddings\.position_ids$/,
  // As the first checkpoints were written.
  oldKeys: [[/LayerNorm\.gamma$/, "LayerNorm.weight"], [/LayerNorm\.beta$/, "LayerNorm.bias"]],
  inputs: (config) => [tokenTypes(config)],
};
