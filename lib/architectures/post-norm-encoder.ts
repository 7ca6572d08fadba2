/**
 * The body of BERT and of those that followed it: tokens that all see one another, with norms behind
 * attention and feed forward. What families change of it is data.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Body, ModelConfig } from "../model/architecture.ts";
import type { BatchInput } from "../model/batch-input.ts";
import type { Modules } from "../model/modules.ts";
import { add, tanh } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, headSizeOf, RATE } from "./config-reader.ts";
import { distanceBias } from "./distance-bias.ts";
import { firstRows } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { headLayers, joinHeads } from "./split-heads.ts";

/** One such encoder. */
export interface PostNormEncoder {
  /** Rows of the embedding. */
  readonly vocab: number;
  /** Size of the hidden state. */
  readonly hidden: number;
  /** Size of the embeddings, which a projection brings to the hidden size where they differ. */
  readonly embedding: number;
  /** Size between the layers of the feed forward. */
  readonly inner: number;
  /** Number of layers. */
  readonly layers: number;
  /** Number of heads. */
  readonly heads: number;
  /** Size of a head. */
  readonly headSize: number;
  /** Rows of the table of positions. */
  readonly positions: number;
  /** Rows of it before the first position. */
  readonly offset: number;
  /** Types of tokens; none where it has no table of them. */
  readonly types: number | null;
  /** The tables and the norm of the embeddings, in the order in which torch constructs them. */
  readonly tables: readonly ("positions" | "types" | "norm")[];
  /** Names in the attention of a layer. */
  readonly names: {
    readonly self: string;
    readonly parts: readonly [query: string, key: string, value: string];
    readonly output: readonly [at: string, name: string];
    /** What holds the norm; the attention itself by default. */
    readonly norm?: string;
  };
  /** Rows of the table of distances, if it has one. */
  readonly distances: number | null;
  /** Of the feed forward. */
  readonly activation: Activation;
  /** What norms add to the variance. */
  readonly epsilon: number;
  /** Share of what is added that training drops. */
  readonly dropout: number;
  /** Share of the probabilities that training drops. */
  readonly attentionDropout: number;
  /** Whether what the first token has become is made the output of a pooler for a task. */
  isPooled(task: string): boolean;
}

/** What a config says about an encoder in the way of BERT's. */
export function readEncoder(config: ModelConfig): PostNormEncoder {
  const { size, boolean, choice, number } = configReader(config), { model_type: type } = config;
  const hidden = size("hidden_size"), heads = size("num_attention_heads");
  if (boolean("is_decoder", false)) {
    throw new UnsupportedError(
      "BERT_DECODER",
      `A ${type} model with is_decoder true reads from left to right, which is not supported. Set it to false.`,
    );
  }
  return {
    vocab: size("vocab_size"),
    hidden,
    embedding: hidden,
    inner: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    headSize: headSizeOf(config, { hidden, heads }),
    positions: size("max_position_embeddings", 512),
    offset: 0,
    types: size("type_vocab_size", 2),
    tables: ["positions", "types", "norm"],
    names: {
      self: "self",
      parts: ["query", "key", "value"],
      output: ["output", "dense"],
      norm: "output",
    },
    distances: null,
    activation: choice("hidden_act", "gelu", ACTIVATIONS),
    epsilon: number("layer_norm_eps", 1e-12, EPSILON),
    dropout: number("hidden_dropout_prob", 0.1, RATE),
    attentionDropout: number("attention_probs_dropout_prob", 0.1, RATE),
    isPooled: (task) => task === "FEATURE_EXTRACTION",
  };
}

/** The dropout before a classifier. */
export function classifierDropout(config: ModelConfig): number {
  return configReader(config).number("classifier_dropout", readEncoder(config).dropout, RATE);
}

/** The types of tokens, as a part of a batch. */
export function tokenTypes(types: number): BatchInput {
  return {
    name: "tokenTypeIds",
    axes: ["batch", "tokens"],
    dtype: "i32",
    from: 0,
    to: types - 1,
    otherwise: 0,
    doc:
      "Which part of a text each token is of, such as 0 for a question and 1 for its context [B, T].",
  };
}

type Bias = (distance: Value) => Value;

function attention(m: Modules, c: PostNormEncoder): (x: Value, bias?: Bias) => Value {
  const { hidden, heads, headSize, names } = c, sizes = { in: hidden, out: hidden };
  const self = m.at(names.self);
  const attend = self.attention({ features: hidden, heads, headSize });
  const [q, k, v] = headLayers(self, names.parts, { ...sizes, heads });
  const [at, name] = names.output, out = m.at(at).linear(name, sizes);
  return (x, bias) =>
    attend({
      q: q(x),
      over: x,
      keyValues: (x) => ({ k: k(x), v: v(x) }),
      project: (y) => out(joinHeads(y)),
      causal: false,
      bias,
      dropout: c.attentionDropout,
    });
}

/** The modules of an encoder, and how they run. */
function postNormEncoder(m: Modules, c: PostNormEncoder, task: string): Body {
  const { hidden, names, types } = c, last = c.positions - c.offset;
  const norm = (m: Modules, size = hidden) =>
    m.norm("LayerNorm", size, { kind: "layer", epsilon: c.epsilon });
  const table = (name: string, rows: number, positions?: number) =>
    m.at("embeddings").embedding(name, { rows, size: c.embedding }, { positions });
  const embedding = table("word_embeddings", c.vocab);
  const made = new Map(c.tables.map((name) => [
    name,
    name === "norm"
      ? norm(m.at("embeddings"), c.embedding)
      : name === "types"
      ? table("token_type_embeddings", types!)
      : table("position_embeddings", c.positions, last),
  ]));
  const places = made.get("positions")!, kinds = made.get("types"), first = made.get("norm")!;
  const project = c.embedding === hidden
    ? (x: Value) => x
    : m.linear("embeddings_project", { in: c.embedding, out: hidden });
  const encoder = m.at("encoder");
  const layers = layersOf(c.layers, (i) => {
    const at = encoder.at("layer").at(i), attended = at.at("attention");
    return {
      attention: attention(attended, c),
      between: norm(names.norm === undefined ? attended : attended.at(names.norm)),
      inner: at.at("intermediate").linear("dense", { in: hidden, out: c.inner }),
      outer: at.at("output").linear("dense", { in: c.inner, out: hidden }),
      after: norm(at.at("output")),
    };
  });
  const distances = c.distances === null
    ? undefined
    : encoder.embedding("relative_attention_bias", { rows: c.distances, size: c.heads });
  const pooler = c.isPooled(task)
    ? m.at("pooler").linear("dense", { in: hidden, out: hidden })
    : undefined;
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const bias = distances &&
        distanceBias(distances, { buckets: 32, maxDistance: 128, bidirectional: true });
      const rows = pass.embedded(embedding(ids));
      const typed = kinds ? add(rows, kinds(pass.batchInput(tokenTypes(types!)))) : rows;
      const at = c.offset ? add(positions, c.offset) : positions;
      let h = project(pass.dropout(first(add(typed, places(at))), c.dropout));
      for (const { attention, between, inner, outer, after } of layers) {
        const x = pass.boundary(h);
        h = between(add(pass.dropout(attention(x, bias), c.dropout), x));
        h = after(add(pass.dropout(outer(c.activation(inner(h))), c.dropout), h));
      }
      const pooled = pooler && { poolerOutput: tanh(pooler(firstRows(h))) };
      return { lastHiddenState: h, ...pooled };
    },
  };
}

/** What an architecture of such encoders says beside its body. */
export function encoderRules(read: (config: ModelConfig) => PostNormEncoder) {
  return {
    body: (m: Modules, config: ModelConfig, task: string): Body =>
      postNormEncoder(m, read(config), task),
    ignoredKeys: /embeddings\.(position|token_type)_ids$/,
    // The row before the first position is that of padding, and has its id.
    uncounted(config: ModelConfig): number | undefined {
      const { offset } = read(config);
      return offset ? offset - 1 : undefined;
    },
    inputs(config: ModelConfig): readonly BatchInput[] {
      const { types } = read(config);
      return types === null ? [] : [tokenTypes(types)];
    },
  };
}
