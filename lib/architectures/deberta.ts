/**
 * DeBERTa v2 and v3 (He et al., 2020, arXiv:2006.03654; 2021, arXiv:2111.09543), whose attention
 * compares what tokens say with how far they are from one another.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Architecture, Body, Head, ModelConfig } from "../model/architecture.ts";
import type { BatchInput } from "../model/batch-input.ts";
import type { Modules } from "../model/modules.ts";
import { cast } from "../ops/cast.ts";
import { constant } from "../ops/constant.ts";
import { add, equal, mul, not } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { pad, sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, headSizeOf, RATE } from "./config-reader.ts";
import { answerHead, classes, firstRows, tokenHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { tokenTypes } from "./post-norm-encoder.ts";
import { joinHeads, splitHeads } from "./split-heads.ts";

/** How distances take part in scores. */
interface Distances {
  /** Buckets of distances in one direction. */
  readonly span: number;
  /** Distances up to half as many have a bucket each where there are buckets, others share them. */
  readonly buckets: number;
  /** The largest distance. */
  readonly largest: number;
  /** Whether the projections of tokens serve for distances too. */
  readonly shared: boolean;
  /** Whether queries are compared with distances. */
  readonly byQuery: boolean;
  /** Whether keys are. */
  readonly byKey: boolean;
}

interface DebertaConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly embedding: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  /** Rows of the table of positions; none where only distances count. */
  readonly positions: number | null;
  readonly types: number | null;
  readonly distances: Distances | null;
  /** How many products a score may be the sum of. */
  readonly parts: number;
  /** Whether there is a norm for the table of distances. */
  readonly distanceNorm: boolean;
  readonly activation: Activation;
  readonly epsilon: number;
  readonly dropout: number;
  readonly attentionDropout: number;
}

function readConfig(config: ModelConfig): DebertaConfig {
  const { size, number, boolean, choice } = configReader(config);
  const hidden = size("hidden_size"), heads = size("num_attention_heads");
  const positions = size("max_position_embeddings", 512), types = number("type_vocab_size", 0);
  if (number("conv_kernel_size", 0) > 0) {
    throw new UnsupportedError(
      "DEBERTA_CONVOLUTION",
      "A deberta-v2 model with a convolution (conv_kernel_size) is not supported; v3 has none.",
    );
  }
  return {
    vocab: size("vocab_size"),
    hidden,
    embedding: size("embedding_size", hidden),
    inner: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    headSize: size("attention_head_size", headSizeOf(config, { hidden, heads })),
    positions: boolean("position_biased_input", true) ? positions : null,
    types: types > 0 ? types : null,
    distances: boolean("relative_attention", false) ? readDistances(config, positions) : null,
    // Counted where distances are off, too.
    parts: 1 + ["c2p", "p2c"].filter((kind) => words(config.pos_att_type).includes(kind)).length,
    distanceNorm: words(config.norm_rel_ebd).includes("layer_norm"),
    activation: choice("hidden_act", "gelu", ACTIVATIONS),
    epsilon: number("layer_norm_eps", 1e-7, EPSILON),
    dropout: number("hidden_dropout_prob", 0.1, RATE),
    attentionDropout: number("attention_probs_dropout_prob", 0.1, RATE),
  };
}

function readDistances(config: ModelConfig, positions: number): Distances {
  const { number, boolean } = configReader(config);
  const kinds = words(config.pos_att_type);
  const asked = number("max_relative_positions", -1), buckets = number("position_buckets", -1);
  const largest = asked < 1 ? positions : asked;
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

/** The row of the table for a distance: those far away share rows in steps of its logarithm. */
function distanceRow(distance: number, { span, buckets, largest }: Distances): number {
  let place = distance;
  if (buckets > 0 && largest > 0) {
    const middle = Math.floor(buckets / 2), far = Math.abs(distance);
    if (far > middle) {
      // In single precision, as torch computes it.
      const log = (x: number) => Math.fround(Math.log(Math.fround(x)));
      const ratio = Math.fround(log(far / middle) / log((largest - 1) / middle));
      place = Math.sign(distance) *
        (Math.ceil(Math.fround(ratio * (middle - 1))) + middle);
    }
  }
  return Math.min(Math.max(place + span, 0), 2 * span - 1);
}

/**
 * Of scores [.., T, 2T−1] of rows with distances, those [.., T, T] of rows with others: row t takes
 * what it has for the distance of each other row, s − t.
 */
function byDistance(scores: Value): Value {
  const [b, h, t, width] = scores.shape;
  const padded = pad(scores, { low: [0, 0, 0, 0], high: [0, 0, 0, 1] });
  const flat = reshape(padded, [b, h, t * (width + 1)]);
  const shifted = sliceAxis(flat, { axis: 2, start: t - 1, size: t * width });
  return sliceAxis(reshape(shifted, [b, h, t, width]), { axis: 3, start: 0, size: t });
}

type Attention = (x: Value, of: {
  readonly table: Value | undefined;
  /** 1 for tokens and 0 for padding [B, T, 1], whose queries come to nothing. */
  readonly seen: Value;
  drop(x: Value): Value;
}) => Value;

function attention(m: Modules, c: DebertaConfig): Attention {
  const { hidden, heads, headSize, distances: d } = c, self = m.at("self");
  const sizes = { in: hidden, out: heads * headSize };
  const attend = self.attention({ features: hidden, heads, headSize });
  const [q, k, v] = ["query_proj", "key_proj", "value_proj"].map((name) =>
    self.linear(name, sizes)
  );
  const apart = (name: string, is: boolean, shared: (x: Value) => Value) =>
    !d || !is ? undefined : d.shared ? shared : self.linear(name, sizes);
  const keysOf = apart("pos_key_proj", d?.byQuery ?? false, k);
  const queriesOf = apart("pos_query_proj", d?.byKey ?? false, q);
  const out = m.at("output").linear("dense", { in: heads * headSize, out: hidden });
  const scale = 1 / Math.sqrt(headSize * c.parts);
  return (x, { table, seen, drop }) => {
    const [b, t] = x.shape;
    const queries = splitHeads(mul(q(x), seen), heads), keys = splitHeads(k(x), heads);
    // What tokens [B, T, H, D] and distances from 1 − T to T − 1 have to do with each other; `sign`
    // says which of the two a distance is counted from.
    const scores = (tokens: Value, project: (x: Value) => Value, sign: 1 | -1) => {
      const rows = Array.from(
        { length: 2 * t - 1 },
        (_, i) => distanceRow(sign * (i - t + 1), d!),
      );
      const made = project(drop(table!));
      const places = gather(made, constant(x.graph, rows, { dtype: "i32" }));
      const byHead = transpose(reshape(places, [2 * t - 1, heads, headSize]), [1, 0, 2]);
      const all = matmul(transpose(tokens, [0, 2, 1, 3]), byHead, { transposeB: true });
      return mul(byDistance(all), scale);
    };
    const terms = [
      keysOf && scores(queries, keysOf, -1),
      queriesOf && mul(
        transpose(scores(keys, queriesOf, 1), [0, 1, 3, 2]),
        reshape(seen, [b, 1, t, 1]),
      ),
    ].filter((term) => term !== undefined);
    return attend({
      q: queries,
      over: x,
      keyValues: (x) => ({ k: splitHeads(k(x), heads), v: splitHeads(v(x), heads) }),
      project: (y) => out(joinHeads(y)),
      causal: false,
      paddingAttends: false,
      scale,
      bias: (distance) => {
        if (terms.length && distance.shape[1] !== t) {
          throw new UnsupportedError(
            "DEBERTA_PREFIX",
            "A deberta-v2 model knows no distance to keys and values that stand before the tokens. Use another method than prefixes.",
          );
        }
        const none = constant(x.graph, 0, { shape: [1, 1, 1] });
        return terms.reduce((sum, term) => add(sum, term), none);
      },
      dropout: c.attentionDropout,
    });
  };
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, inner, distances: d } = c;
  const norm = (m: Modules) => m.norm("LayerNorm", hidden, { kind: "layer", epsilon: c.epsilon });
  const at = m.at("embeddings"), size = c.embedding;
  const embedding = at.embedding("word_embeddings", { rows: c.vocab, size });
  const places = c.positions === null ? undefined : at.embedding("position_embeddings", {
    rows: c.positions,
    size,
  }, { positions: c.positions });
  const types = c.types === null
    ? undefined
    : at.embedding("token_type_embeddings", { rows: c.types, size });
  const project = size === hidden
    ? (x: Value) => x
    : at.linear("embed_proj", { in: size, out: hidden }, { bias: false });
  const first = norm(at), encoder = m.at("encoder");
  const layers = layersOf(c.layers, (i) => {
    const at = encoder.at("layer").at(i);
    return {
      attention: attention(at.at("attention"), c),
      between: norm(at.at("attention").at("output")),
      up: at.at("intermediate").linear("dense", { in: hidden, out: inner }),
      down: at.at("output").linear("dense", { in: inner, out: hidden }),
      after: norm(at.at("output")),
    };
  });
  const table = d && encoder.embedding("rel_embeddings", { rows: 2 * d.span, size: hidden });
  const tableNorm = c.distanceNorm ? norm(encoder) : (x: Value) => x;
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const drop = (x: Value) => pass.dropout(x, c.dropout);
      let rows = pass.embedded(embedding(ids));
      if (places) rows = add(rows, places(positions));
      if (types) rows = add(rows, types(pass.batchInput(tokenTypes(c.types!))));
      const isToken = cast(not(equal(pass.segments, 0)), "f32");
      const seen = reshape(isToken, [...isToken.shape, 1]);
      let h = drop(mul(first(project(rows)), seen));
      const ofTable = table
        ? tableNorm(table(iota(ids.graph, [2 * d!.span], { axis: 0 })))
        : undefined;
      for (const { attention, between, up, down, after } of layers) {
        const x = pass.boundary(h);
        h = between(add(drop(attention(x, { table: ofTable, seen, drop })), x));
        h = after(add(drop(down(c.activation(up(h)))), h));
      }
      return { lastHiddenState: h };
    },
  };
}

const head: Head = (m, { config, body }) => {
  const { number, choice } = configReader(config), { hidden } = body;
  const pooler = m.at("pooler").linear("dense", { in: hidden, out: hidden }, { head: true });
  const classifier = m.linear("classifier", classes(config, body), { head: true });
  const activation = choice("pooler_hidden_act", "gelu", ACTIVATIONS);
  const [before, between] = [
    number("pooler_dropout", 0, RATE),
    number("cls_dropout", readConfig(config).dropout, RATE),
  ];
  return (pass, outputs) => {
    const rows = pass.dropout(firstRows(outputs.lastHiddenState), before);
    const pooled = pass.dropout(activation(pooler(rows)), between);
    return { ...outputs, logits: classifier(pooled) };
  };
};

/** DeBERTa v2 and v3. */
export const deberta: Architecture = {
  name: "deberta-v2",
  modelTypes: ["deberta-v2"],
  bodyPath: "deberta",
  body,
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: head,
    TOKEN_CLS: tokenHead((config) => readConfig(config).dropout),
    QUESTION_ANS: answerHead,
  },
  ignoredKeys: /embeddings\.position_ids$/,
  inputs(config): readonly BatchInput[] {
    const { types } = readConfig(config);
    return types === null ? [] : [tokenTypes(types)];
  },
};
