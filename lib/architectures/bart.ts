/**
 * BART (Lewis et al., 2019, arXiv:1910.13461): an encoder and a decoder with learned positions.
 *
 * @module
 */
import type { Architecture, ArchitecturePass, Body, ModelConfig } from "../model/architecture.ts";
import type { Layer, Modules } from "../model/modules.ts";
import { add, min, mul } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, headSizeOf, RATE } from "./config-reader.ts";
import { languageHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { headLayers, joinHeads } from "./split-heads.ts";

/** Rows of the tables of positions before the first position. */
const OFFSET = 2;

/** The sizes of a half. */
interface Half {
  readonly layers: number;
  readonly heads: number;
  readonly inner: number;
}

interface BartConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly positions: number;
  readonly encoder: Half;
  readonly decoder: Half;
  readonly activation: Activation;
  readonly scale: number;
  readonly dropout: number;
  readonly attentionDropout: number;
  readonly activationDropout: number;
}

function readConfig(config: ModelConfig): BartConfig {
  const { size, number, boolean, choice } = configReader(config);
  const hidden = size("d_model", 1024);
  const half = (name: string): Half => ({
    layers: size(`${name}_layers`, 12),
    heads: size(`${name}_attention_heads`, 16),
    inner: size(`${name}_ffn_dim`, 4096),
  });
  return {
    vocab: size("vocab_size"),
    hidden,
    positions: size("max_position_embeddings", 1024),
    encoder: half("encoder"),
    decoder: half("decoder"),
    activation: choice("activation_function", "gelu", ACTIVATIONS),
    scale: boolean("scale_embedding", false) ? Math.sqrt(hidden) : 1,
    dropout: number("dropout", 0.1, RATE),
    attentionDropout: number("attention_dropout", 0, RATE),
    activationDropout: number("activation_dropout", 0, RATE),
  };
}

/** Attention of some rows over others. */
function attention(
  m: Modules,
  c: BartConfig,
  of: { readonly heads: number; readonly over: "tokens" | "decoderTokens" | "memory" },
): (x: Value, rows: Value | undefined) => Value {
  const { hidden } = c, { heads, over } = of, sizes = { in: hidden, out: hidden };
  const headSize = headSizeOf({ model_type: "bart" }, { hidden, heads });
  const attend = m.attention({ features: hidden, heads, headSize, over });
  const [k, v, q] = headLayers(m, ["k_proj", "v_proj", "q_proj"], { ...sizes, heads });
  const out = m.linear("out_proj", sizes);
  return (x, rows) =>
    attend({
      q: q(x),
      over: rows,
      keyValues: (x) => ({ k: k(x), v: v(x) }),
      project: (y) => out(joinHeads(y)),
      causal: over === "decoderTokens",
      dropout: c.attentionDropout,
    });
}

/** One half: the encoder, or the decoder, which takes what the encoder made. */
function half(
  m: Modules,
  name: "encoder" | "decoder",
  of: { readonly c: BartConfig; readonly embedding: Layer },
): { tokens: Layer; run(pass: ArchitecturePass, rows: Value, memory?: Value): Value } {
  const { c } = of, { hidden } = c, { layers: count, heads, inner } = c[name];
  const at = m.at(name), norm = { kind: "layer", epsilon: 1e-5 } as const;
  const isDecoder = name === "decoder", over = isDecoder ? "decoderTokens" : "tokens";
  const tokens = at.embedding("embed_tokens", { rows: c.vocab, size: hidden }, {
    tiedTo: of.embedding,
  });
  const places = at.embedding("embed_positions", { rows: c.positions + OFFSET, size: hidden }, {
    positions: c.positions,
  });
  const layers = layersOf(count, (i) => {
    const layer = at.at("layers").at(i);
    return {
      self: attention(layer.at("self_attn"), c, { heads, over }),
      afterSelf: layer.norm("self_attn_layer_norm", hidden, norm),
      cross: isDecoder
        ? {
          attention: attention(layer.at("encoder_attn"), c, { heads, over: "memory" }),
          after: layer.norm("encoder_attn_layer_norm", hidden, norm),
        }
        : undefined,
      up: layer.linear("fc1", { in: hidden, out: inner }),
      down: layer.linear("fc2", { in: inner, out: hidden }),
      last: layer.norm("final_layer_norm", hidden, norm),
    };
  });
  const first = at.norm("layernorm_embedding", hidden, norm);
  return {
    tokens,
    run(pass, rows, memory) {
      const added = (x: Value, y: Value) => add(x, pass.dropout(y, c.dropout));
      // Positions count from the start of a row, padding included, which may go beyond the last.
      const start = isDecoder ? add(pass.offset, OFFSET) : OFFSET;
      const place = add(iota(rows.graph, [1, rows.shape[1]], { axis: 1 }), start);
      const known = min(place, c.positions + OFFSET - 1);
      let h = pass.dropout(first(add(rows, places(known))), c.dropout);
      for (const { self, afterSelf, cross, up, down, last } of layers) {
        const x = pass.boundary(h);
        h = afterSelf(added(x, self(x, x)));
        if (cross) h = cross.after(added(h, cross.attention(h, memory)));
        const opened = pass.dropout(c.activation(up(h)), c.activationDropout);
        h = last(added(h, down(opened)));
      }
      return h;
    },
  };
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, scale } = c;
  const embedding = m.embedding("shared", { rows: c.vocab, size: hidden });
  const encoder = half(m, "encoder", { c, embedding });
  const decoder = half(m, "decoder", { c, embedding });
  const rows = (tokens: Layer, ids: Value) => scale === 1 ? tokens(ids) : mul(tokens(ids), scale);
  return {
    hidden,
    embedding,
    run(pass, { ids, decoderIds }) {
      const memory = pass.encoded(() =>
        encoder.run(pass, pass.embedded(rows(encoder.tokens, ids)))
      );
      const lastHiddenState = decoder.run(pass, rows(decoder.tokens, decoderIds!), memory);
      return { lastHiddenState, ...(memory && { encoderLastHiddenState: memory }) };
    },
  };
}

/** BART. */
export const bart: Architecture = {
  name: "bart",
  modelTypes: ["bart"],
  bodyPath: "model",
  body,
  heads: {
    SEQ_2_SEQ_LM: languageHead({ tied: "always" }),
    FEATURE_EXTRACTION: null,
  },
  // A buffer of zeros, which nothing trains.
  ignoredKeys: /^final_logits_bias$/,
  initializerRange: (config) => configReader(config).number("init_std", 0.02),
};
