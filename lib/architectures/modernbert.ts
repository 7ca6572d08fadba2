/**
 * ModernBERT (Warner et al., 2024, arXiv:2412.13663): an encoder with rotated heads, most of whose
 * layers see near tokens only.
 *
 * @module
 */
import type { Architecture, Head, ModelConfig } from "../model/architecture.ts";
import { cast } from "../ops/cast.ts";
import { and, div, equal, greaterEqual, lessEqual, mul, not } from "../ops/elementwise.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import type { Value } from "../ops/value.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { configReader, fieldsOf } from "./config-reader.ts";
import { classes, splitBounds } from "./heads.ts";
import { readTransformer } from "./read-transformer.ts";
import { ropeConfig } from "./rope-config.ts";
import { firstRows } from "./text-rows.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

/** Far below any score, but finite. */
const HIDDEN = -1e30;

/** Hides what is farther than `reach` from a token. */
const near = (reach: number) => (distance: Value) => {
  const seen = and(lessEqual(distance, reach), greaterEqual(distance, -reach));
  return reshape(select(seen, 0, HIDDEN), [1, ...distance.shape]);
};

function readConfig(config: ModelConfig): Transformer {
  const { size, number, boolean, rate, list } = configReader(config),
    attention = "attention_dropout";
  const fields = { activation: "hidden_activation", epsilon: "norm_eps" };
  const c = readTransformer(config, { fields });
  const kinds = list("layer_types"), every = number("global_attn_every_n_layers", 3);
  const isLocal = (i: number) => kinds ? kinds[i] === "sliding_attention" : i % every !== 0;
  const reach = Math.floor(size("local_attention", 128) / 2);
  const bias = boolean("attention_bias", false);
  const parts = fieldsOf(config.rope_parameters), { rope_scaling: scaling } = config;
  const rope = (part: unknown, name: string, theta: number) =>
    ropeConfig({
      ...config,
      rope_scaling: { ...fieldsOf(part), ...fieldsOf(scaling) },
      rope_theta: number(name, theta),
    }, c.headSize);
  return {
    ...c,
    norm: { ...c.norm, bias: boolean("norm_bias", false) },
    names: {
      embedding: "embeddings.tok_embeddings",
      norm: "embeddings.norm",
      layers: "layers",
      last: "final_norm",
    },
    layer: (i) => ({
      beforeAttention: i ? "attn_norm" : undefined,
      attention: { at: "attn", qkv: "Wqkv", output: "Wo" },
      beforeFeed: "mlp_norm",
      feed: { at: "mlp", gateUp: "Wi", down: "Wo" },
    }),
    bias: { qkv: bias, output: bias, feed: boolean("mlp_bias", false) },
    causal: false,
    scoreBias: (i) => isLocal(i) ? near(reach) : undefined,
    ropes: {
      "rope": rope(parts.full_attention, "global_rope_theta", 160_000),
      "rope.local": rope(parts.sliding_attention, "local_rope_theta", 10_000),
    },
    rope: (i) => isLocal(i) ? "rope.local" : "rope",
    dropout: {
      embedding: rate("embedding_dropout"),
      attention: rate(attention),
      attended: rate(attention),
      inner: rate("mlp_dropout"),
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
    const { rate, boolean, choice } = configReader(config), at = m.at("head");
    const bias = boolean("classifier_bias", false);
    const activation = choice("classifier_activation", "gelu", ACTIVATIONS);
    const dense = at.linear("dense", { in: hidden, out: hidden }, { bias, head: true });
    const after = at.norm("norm", hidden, norm);
    const sizes = of.out === undefined ? classes(config, body) : { in: hidden, out: of.out };
    const classifier = m.linear("classifier", sizes, { head: true });
    const dropout = rate("classifier_dropout");
    return (pass, outputs) => {
      const { lastHiddenState: h } = outputs;
      const rows = of.pool?.(h, pass.segments, config) ?? h;
      const logits = classifier(pass.dropout(after(activation(dense(rows))), dropout));
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
  ...transformerRules(readConfig),
  name: "modernbert",
  modelTypes: ["modernbert"],
  bodyPath: "model",
  heads: {
    FEATURE_EXTRACTION: null,
    SEQ_CLS: head({ pool: pooled }),
    TOKEN_CLS: head({}),
    QUESTION_ANS: head({ out: 2 }),
  },
};
