/**
 * T5 (Raffel et al., 2020, arXiv:1910.10683) and T5 1.1: an encoder and a decoder, whose attention
 * knows how far apart tokens are by a bias on its scores alone.
 *
 * @module
 */
import type { Architecture, ArchitecturePass, Body, ModelConfig } from "../model/architecture.ts";
import type { Layer, Modules } from "../model/modules.ts";
import { add, mul } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, RATE } from "./config-reader.ts";
import { distanceBias } from "./distance-bias.ts";
import { languageHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { headLayers, joinHeads } from "./split-heads.ts";

interface T5Config {
  readonly vocab: number;
  readonly hidden: number;
  readonly headSize: number;
  readonly inner: number;
  readonly layers: number;
  readonly decoderLayers: number;
  readonly heads: number;
  readonly buckets: number;
  readonly maxDistance: number;
  readonly dropout: number;
  readonly epsilon: number;
  readonly gated: boolean;
  readonly activation: Activation;
}

/** Activations by `feed_forward_proj`; transformers' gated-gelu is the approximation. */
const FEED_FORWARDS: Readonly<Record<string, Activation>> = Object.fromEntries(
  Object.entries(ACTIVATIONS).flatMap(([name, activation]) => [
    [name, activation],
    [`gated-${name}`, name === "gelu" ? ACTIVATIONS.gelu_new : activation],
  ]),
);

function readConfig(config: ModelConfig): T5Config {
  const { size, choice, number } = configReader(config);
  const layers = size("num_layers", 6);
  return {
    vocab: size("vocab_size", 32128),
    hidden: size("d_model", 512),
    headSize: size("d_kv", 64),
    inner: size("d_ff", 2048),
    layers,
    decoderLayers: size("num_decoder_layers", layers),
    heads: size("num_heads", 8),
    buckets: size("relative_attention_num_buckets", 32),
    maxDistance: size("relative_attention_max_distance", 128, 1 << 16),
    dropout: number("dropout_rate", 0.1, RATE),
    epsilon: number("layer_norm_epsilon", 1e-6, EPSILON),
    gated: String(config.feed_forward_proj).startsWith("gated-"),
    activation: choice("feed_forward_proj", "relu", FEED_FORWARDS),
  };
}

/** One stack of blocks: the encoder, or the decoder. */
type Stack = (pass: ArchitecturePass, rows: Value, memory?: Value) => Value;

interface StackOptions {
  readonly c: T5Config;
  readonly layers: number;
  readonly isDecoder: boolean;
}

function stack(m: Modules, options: StackOptions): Stack {
  const { c, isDecoder } = options;
  const over = isDecoder ? "decoderTokens" : "tokens";
  const norm = (m: Modules) => m.norm("layer_norm", c.hidden, { kind: "rms", epsilon: c.epsilon });
  let table: Layer | undefined;
  const blocks = layersOf(options.layers, (i) => {
    const at = m.at("block").at(i).at("layer");
    const self = attention(at.at(0).at("SelfAttention"), c, over);
    // The first block's table stands for all.
    table ??= at.at(0).at("SelfAttention").embedding("relative_attention_bias", {
      rows: c.buckets,
      size: c.heads,
    });
    const before = norm(at.at(0));
    const cross = isDecoder
      ? {
        attention: attention(at.at(1).at("EncDecAttention"), c, "memory"),
        before: norm(at.at(1)),
      }
      : undefined;
    const last = at.at(isDecoder ? 2 : 1);
    return {
      self,
      before,
      cross,
      feedForward: feedForward(last.at("DenseReluDense"), c),
      between: norm(last),
    };
  });
  const last = m.norm("final_layer_norm", c.hidden, { kind: "rms", epsilon: c.epsilon });
  return (pass, rows, memory) => {
    const dropout = (x: Value) => pass.dropout(x, c.dropout);
    const bias = distanceBias(table!, { ...c, bidirectional: !isDecoder });
    let h = dropout(rows);
    for (const { self, before, cross, feedForward, between } of blocks) {
      const x = before(pass.boundary(h));
      h = add(h, dropout(self(x, x, bias)));
      if (cross) h = add(h, dropout(cross.attention(cross.before(h), memory)));
      h = add(h, dropout(feedForward(between(h), dropout)));
    }
    return dropout(last(h));
  };
}

/** Attention of some rows over others; queries are not scaled. */
function attention(
  m: Modules,
  c: T5Config,
  over: "tokens" | "decoderTokens" | "memory",
): (x: Value, over: Value | undefined, bias?: (distance: Value) => Value) => Value {
  const { hidden, heads, headSize } = c, inner = heads * headSize;
  const attend = m.attention({ features: hidden, heads, headSize, over });
  const [q, k, v] = headLayers(m, ["q", "k", "v"], { in: hidden, out: inner, heads, bias: false });
  const out = m.linear("o", { in: inner, out: hidden }, { bias: false });
  return (x, rows, bias) =>
    attend({
      q: q(x),
      over: rows,
      keyValues: (x) => ({ k: k(x), v: v(x) }),
      project: (y) => out(joinHeads(y)),
      causal: over === "decoderTokens",
      scale: 1,
      bias,
      dropout: c.dropout,
    });
}

function feedForward(
  m: Modules,
  c: T5Config,
): (x: Value, dropout: (x: Value) => Value) => Value {
  const into = (name: string) => m.linear(name, { in: c.hidden, out: c.inner }, { bias: false });
  const first = into(c.gated ? "wi_0" : "wi"), second = c.gated ? into("wi_1") : undefined;
  const out = m.linear("wo", { in: c.inner, out: c.hidden }, { bias: false });
  return (x, dropout) => {
    const y = c.activation(first(x));
    return out(dropout(second ? mul(y, second(x)) : y));
  };
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden } = c;
  const sizes = { rows: c.vocab, size: hidden };
  const embedding = m.embedding("shared", sizes);
  const half = (name: string, layers: number) => {
    const at = m.at(name);
    const tokens = at.embedding("embed_tokens", sizes, { tiedTo: embedding });
    const run = stack(at, { c, layers, isDecoder: name === "decoder" });
    return { tokens, run };
  };
  const encoder = half("encoder", c.layers), decoder = half("decoder", c.decoderLayers);
  return {
    hidden,
    embedding,
    run(pass, { ids, decoderIds }) {
      const memory = pass.encoded(() => encoder.run(pass, pass.embedded(encoder.tokens(ids))));
      const lastHiddenState = decoder.run(pass, decoder.tokens(decoderIds!), memory);
      return { lastHiddenState, ...(memory && { encoderLastHiddenState: memory }) };
    },
  };
}

/** T5 and T5 1.1. */
export const t5: Architecture = {
  name: "t5",
  modelTypes: ["t5"],
  bodyPath: "",
  body,
  completeConfig: (config) => ({ ...config, scale_decoder_outputs: isScaled(config) }),
  heads: {
    // Whatever the config says: checkpoints of T5 1.1 on may hold a head of their own.
    SEQ_2_SEQ_LM: languageHead({
      tied: "always",
      scale: (config) => isScaled(config) ? readConfig(config).hidden ** -0.5 : 1,
    }),
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /EncDecAttention\.relative_attention_bias\.weight$/,
  initializerRange: (config) => 0.05 * configReader(config).number("initializer_factor", 1),
};

/** Whether the hidden state is scaled before the head; a config of transformers 4 says it by its tie. */
function isScaled(config: ModelConfig): boolean {
  return configReader(config).boolean(
    "scale_decoder_outputs",
    configReader(config).boolean("tie_word_embeddings", true),
  );
}
