/**
 * BLOOM (Le Scao et al., 2022, arXiv:2211.05100), whose attention falls off with distance (ALiBi,
 * Press et al., 2021, arXiv:2108.12409).
 *
 * @module
 */
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { cast } from "../ops/cast.ts";
import { constant } from "../ops/constant.ts";
import { add, mul } from "../ops/elementwise.ts";
import { geluTanh } from "../ops/functions.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { configReader, EPSILON, headSizeOf, RATE } from "./config-reader.ts";
import { answerHead, classifierDropout, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { joinHeads, splitFused } from "./split-heads.ts";

interface BloomConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  readonly epsilon: number;
  /** Whether blocks add to what their norms give, not to what those get. */
  readonly addsToNorm: boolean;
  readonly dropout: number;
  readonly attentionDropout: number;
}

function readConfig(config: ModelConfig): BloomConfig {
  const { n_embed, num_attention_heads, num_hidden_layers } = config;
  const { size, number, boolean } = configReader({
    n_head: num_attention_heads,
    n_layer: num_hidden_layers,
    hidden_size: n_embed,
    ...config,
  });
  const hidden = size("hidden_size"), heads = size("n_head");
  return {
    vocab: size("vocab_size"),
    hidden,
    layers: size("n_layer"),
    heads,
    headSize: headSizeOf(config, { hidden, heads }),
    epsilon: number("layer_norm_epsilon", 1e-5, EPSILON),
    addsToNorm: boolean("apply_residual_connection_post_layernorm", false),
    dropout: number("hidden_dropout", 0, RATE),
    attentionDropout: number("attention_dropout", 0, RATE),
  };
}

/** How much each head's scores fall by position: powers of two, and what lies between them. */
function alibiSlopes(heads: number): number[] {
  const power = 2 ** Math.floor(Math.log2(heads));
  const base = (n: number) => 2 ** -(2 ** -(Math.log2(n) - 3));
  return Array.from(
    { length: heads },
    (_, i) => i < power ? base(power) ** (i + 1) : base(2 * power) ** (2 * (i - power) + 1),
  );
}

function attention(m: Modules, c: BloomConfig): (x: Value) => Value {
  const { hidden, heads, headSize } = c;
  const attend = m.attention({ features: hidden, heads, headSize });
  const fused = m.linear("query_key_value", { in: hidden, out: 3 * hidden });
  const dense = m.linear("dense", { in: hidden, out: hidden });
  const part = (x: Value, n: number) => splitFused(fused(x), { heads, parts: 3 })[n];
  const slopes = alibiSlopes(heads);
  return (x) =>
    attend({
      q: part(x, 0),
      over: x,
      keyValues: (x) => ({ k: part(x, 1), v: part(x, 2) }),
      project: (y) => dense(joinHeads(y)),
      bias(distance) {
        const slope = constant(distance.graph, slopes, { shape: [heads, 1, 1] });
        return mul(slope, reshape(cast(distance, "f32"), [1, ...distance.shape]));
      },
      dropout: c.attentionDropout,
    });
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden } = c;
  const norm = { kind: "layer", epsilon: c.epsilon } as const;
  const embedding = m.embedding("word_embeddings", { rows: c.vocab, size: hidden });
  const first = m.norm("word_embeddings_layernorm", hidden, norm);
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("h").at(i);
    return {
      before: at.norm("input_layernorm", hidden, norm),
      attention: attention(at.at("self_attention"), c),
      between: at.norm("post_attention_layernorm", hidden, norm),
      up: at.at("mlp").linear("dense_h_to_4h", { in: hidden, out: 4 * hidden }),
      down: at.at("mlp").linear("dense_4h_to_h", { in: 4 * hidden, out: hidden }),
    };
  });
  const last = m.norm("ln_f", hidden, norm);
  return {
    hidden,
    embedding,
    run(pass, { ids }) {
      const block = (x: Value, norm: (x: Value) => Value, run: (x: Value) => Value) => {
        const y = norm(x);
        return add(c.addsToNorm ? y : x, pass.dropout(run(y), c.dropout));
      };
      let h = first(pass.embedded(embedding(ids)));
      for (const { before, attention, between, up, down } of layers) {
        h = block(pass.boundary(h), before, attention);
        h = block(h, between, (x) => down(geluTanh(up(x))));
      }
      return { lastHiddenState: last(h) };
    },
  };
}

/** BLOOM. */
export const bloom: Architecture = {
  name: "bloom",
  modelTypes: ["bloom"],
  bodyPath: "transformer",
  body,
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  maxPositions: () => Infinity,
};
