/**
 * ModernBERT (Warner et al., 2024, arXiv:2412.13663): an encoder with rotated heads, most of whose
 * layers see near tokens only.
 *
 * @module
 */
import type { Architecture, Body, Head, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { cast } from "../ops/cast.ts";
import { add, and, div, equal, greaterEqual, lessEqual, mul, not } from "../ops/elementwise.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, fieldsOf, headSizeOf, RATE } from "./config-reader.ts";
import { classes, firstRows, splitBounds } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { checkRope, ropeConfig, ropeRules, type Ropes, rotations } from "./rope.ts";
import { joinHeads, splitStacked } from "./split-heads.ts";

/** Far below any score, but finite. */
const HIDDEN = -1e30;

interface ModernBertConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  readonly bias: boolean;
  readonly mlpBias: boolean;
  readonly norm: { readonly kind: "layer"; readonly epsilon: number; readonly bias: boolean };
  readonly activation: Activation;
  readonly embeddingDropout: number;
  readonly attentionDropout: number;
  readonly mlpDropout: number;
  /** How far from a token others may be that it sees, in a layer that sees near ones only. */
  readonly reach: number;
  isLocal(layer: number): boolean;
  readonly ropes: Ropes;
}

function readConfig(config: ModelConfig): ModernBertConfig {
  const { size, number, boolean, choice, list } = configReader(config);
  const hidden = size("hidden_size"), heads = size("num_attention_heads");
  const headSize = headSizeOf(config, { hidden, heads });
  const kinds = list("layer_types"), every = number("global_attn_every_n_layers", 3);
  const parts = fieldsOf(config.rope_parameters), { rope_scaling: scaling } = config;
  const rope = (part: unknown, name: string, theta: number) =>
    ropeConfig({
      ...config,
      rope_scaling: { ...fieldsOf(part), ...fieldsOf(scaling) },
      rope_theta: number(name, theta),
    }, headSize);
  return {
    vocab: size("vocab_size"),
    hidden,
    inner: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    headSize,
    bias: boolean("attention_bias", false),
    mlpBias: boolean("mlp_bias", false),
    norm: {
      kind: "layer",
      epsilon: number("norm_eps", 1e-5, EPSILON),
      bias: boolean("norm_bias", false),
    },
    activation: choice("hidden_activation", "gelu", ACTIVATIONS),
    embeddingDropout: number("embedding_dropout", 0, RATE),
    attentionDropout: number("attention_dropout", 0, RATE),
    mlpDropout: number("mlp_dropout", 0, RATE),
    reach: Math.floor(size("local_attention", 128) / 2),
    isLocal: (layer) => kinds ? kinds[layer] === "sliding_attention" : layer % every !== 0,
    ropes: {
      "rope": rope(parts.full_attention, "global_rope_theta", 160_000),
      "rope.local": rope(parts.sliding_attention, "local_rope_theta", 10_000),
    },
  };
}

type Rotate = (x: Value) => Value;

function attention(
  m: Modules,
  c: ModernBertConfig,
  reach: number,
): (x: Value, rotate: Rotate) => Value {
  const { hidden, heads, headSize } = c, options = { bias: c.bias };
  const attend = m.attention({ features: hidden, heads, headSize });
  const fused = m.linear("Wqkv", { in: hidden, out: 3 * hidden }, options);
  const out = m.linear("Wo", { in: hidden, out: hidden }, options);
  const part = (x: Value, n: number) => splitStacked(fused(x), { heads, parts: 3 })[n];
  const near = (distance: Value) => {
    const seen = and(lessEqual(distance, reach), greaterEqual(distance, -reach));
    return reshape(select(seen, 0, HIDDEN), [1, ...distance.shape]);
  };
  return (x, rotate) =>
    attend({
      q: rotate(part(x, 0)),
      over: x,
      keyValues: (x) => ({ k: part(x, 1), v: part(x, 2) }),
      rotate,
      project: (y) => out(joinHeads(y)),
      causal: false,
      bias: reach === Infinity ? undefined : near,
      dropout: c.attentionDropout,
    });
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, inner } = c;
  for (const rope of Object.values(c.ropes)) checkRope(rope);
  const embedding = m.at("embeddings").embedding("tok_embeddings", { rows: c.vocab, size: hidden });
  const first = m.at("embeddings").norm("norm", hidden, c.norm);
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("layers").at(i), isLocal = c.isLocal(i);
    return {
      before: i === 0 ? (x: Value) => x : at.norm("attn_norm", hidden, c.norm),
      attention: attention(at.at("attn"), c, isLocal ? c.reach : Infinity),
      between: at.norm("mlp_norm", hidden, c.norm),
      up: at.at("mlp").linear("Wi", { in: hidden, out: 2 * inner }, { bias: c.mlpBias }),
      down: at.at("mlp").linear("Wo", { in: inner, out: hidden }, { bias: c.mlpBias }),
      rope: isLocal ? "rope.local" : "rope",
    };
  });
  const last = m.norm("final_norm", hidden, c.norm);
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const turned = rotations(pass, positions, c.ropes);
      let h = pass.dropout(first(pass.embedded(embedding(ids))), c.embeddingDropout);
      for (const { before, attention, between, up, down, rope } of layers) {
        const attended = attention(before(pass.boundary(h)), turned[rope]);
        h = add(h, pass.dropout(attended, c.attentionDropout));
        const both = up(between(h));
        const [opened, gate] = [0, inner].map((start) =>
          sliceAxis(both, { axis: 2, start, size: inner })
        );
        h = add(h, down(pass.dropout(mul(c.activation(opened), gate), c.mlpDropout)));
      }
      return { lastHiddenState: last(h) };
    },
  };
}

/** A layer with an activation and a norm, and then scores by `classifier`. */
function head(of: {
  readonly pool?: (h: Value, segments: Value, config: ModelConfig) => Value;
  readonly out?: number;
}): Head {
  return (m, { config, body }) => {
    const { hidden } = body, { norm } = readConfig(config);
    const { number, boolean, choice } = configReader(config), at = m.at("head");
    const bias = boolean("classifier_bias", false);
    const activation = choice("classifier_activation", "gelu", ACTIVATIONS);
    const dense = at.linear("dense", { in: hidden, out: hidden }, { bias, head: true });
    const after = at.norm("norm", hidden, norm);
    const sizes = of.out === undefined ? classes(config, body) : { in: hidden, out: of.out };
    const classifier = m.linear("classifier", sizes, { head: true });
    const rate = number("classifier_dropout", 0, RATE);
    return (pass, outputs) => {
      const { lastHiddenState: h } = outputs;
      const rows = of.pool?.(h, pass.segments, config) ?? h;
      const logits = classifier(pass.dropout(after(activation(dense(rows))), rate));
      if (of.out === undefined) return { ...outputs, logits };
      return { ...outputs, ...splitBounds(logits) };
    };
  };
}

/** What a text is told by: its first token, or the mean of all. */
function pooled(h: Value, segments: Value, config: ModelConfig): Value {
  const pool = configReader(config).choice("classifier_pooling", "cls", { cls: 1, mean: 2 });
  if (pool === 1) return firstRows(h);
  const seen = reshape(cast(not(equal(segments, 0)), "f32"), [...segments.shape, 1]);
  return div(sum(mul(h, seen), { axes: [1] }), sum(seen, { axes: [1] }));
}

/** ModernBERT. */
export const modernBert: Architecture = {
  name: "modernbert",
  modelTypes: ["modernbert"],
  bodyPath: "model",
  body,
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: head({ pool: pooled }),
    TOKEN_CLS: head({}),
    QUESTION_ANS: head({ out: 2 }),
  },
  ...ropeRules((config) => readConfig(config).ropes),
};
