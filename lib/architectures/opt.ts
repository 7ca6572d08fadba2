/**
 * OPT (Zhang et al., 2022, arXiv:2205.01068), with learned positions.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, headSizeOf, RATE } from "./config-reader.ts";
import { answerHead, languageHead, lastTokenHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { headLayers, joinHeads } from "./split-heads.ts";

/** Rows of the table of positions before the first position. */
const OFFSET = 2;

interface OptConfig {
  readonly vocab: number;
  readonly hidden: number;
  /** Size of the embeddings, which a projection brings to the hidden size where they differ. */
  readonly embedding: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  readonly positions: number;
  readonly bias: boolean;
  readonly normFirst: boolean;
  readonly lastNorm: boolean;
  readonly activation: Activation;
  readonly dropout: number;
  readonly attentionDropout: number;
}

function readConfig(config: ModelConfig): OptConfig {
  const { size, number, boolean, choice } = configReader(config);
  const hidden = size("hidden_size"), heads = size("num_attention_heads");
  const normFirst = boolean("do_layer_norm_before", true);
  if (!boolean("layer_norm_elementwise_affine", true)) {
    throw new UnsupportedError(
      "OPT_NORM",
      "An opt model with layer_norm_elementwise_affine false has norms without weights, which are not supported.",
    );
  }
  return {
    vocab: size("vocab_size"),
    hidden,
    embedding: size("word_embed_proj_dim", hidden),
    inner: size("ffn_dim"),
    layers: size("num_hidden_layers"),
    heads,
    headSize: headSizeOf(config, { hidden, heads }),
    positions: size("max_position_embeddings", 2048),
    bias: boolean("enable_bias", true),
    normFirst,
    lastNorm: normFirst && !boolean("_remove_final_layer_norm", false),
    activation: choice("activation_function", "relu", ACTIVATIONS),
    dropout: number("dropout", 0.1, RATE),
    attentionDropout: number("attention_dropout", 0, RATE),
  };
}

function attention(m: Modules, c: OptConfig): (x: Value) => Value {
  const { hidden, heads, headSize, bias } = c;
  const attend = m.attention({ features: hidden, heads, headSize });
  const sizes = { in: hidden, out: hidden };
  const [k, v, q] = headLayers(m, ["k_proj", "v_proj", "q_proj"], { ...sizes, heads, bias });
  const out = m.linear("out_proj", sizes, { bias });
  return (x) =>
    attend({
      q: q(x),
      over: x,
      keyValues: (x) => ({ k: k(x), v: v(x) }),
      project: (y) => out(joinHeads(y)),
      dropout: c.attentionDropout,
    });
}

function body(all: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, inner, bias } = c, m = all.at("decoder");
  const norm = { kind: "layer", epsilon: 1e-5 } as const;
  const embedding = m.embedding("embed_tokens", { rows: c.vocab, size: c.embedding });
  const places = m.embedding("embed_positions", { rows: c.positions + OFFSET, size: hidden }, {
    positions: c.positions,
  });
  const project = (name: string, sizes: { readonly in: number; readonly out: number }) =>
    sizes.in === sizes.out ? (x: Value) => x : m.linear(name, sizes, { bias: false });
  const fromHidden = project("project_out", { in: hidden, out: c.embedding });
  const toHidden = project("project_in", { in: c.embedding, out: hidden });
  const last = c.lastNorm ? m.norm("final_layer_norm", hidden, norm) : (x: Value) => x;
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("layers").at(i);
    return {
      attention: attention(at.at("self_attn"), c),
      first: at.norm("self_attn_layer_norm", hidden, norm),
      up: at.linear("fc1", { in: hidden, out: inner }, { bias }),
      down: at.linear("fc2", { in: inner, out: hidden }, { bias }),
      second: at.norm("final_layer_norm", hidden, norm),
    };
  });
  return {
    hidden: c.embedding,
    embedding,
    run(pass, { ids, positions }) {
      const block = (x: Value, norm: (x: Value) => Value, run: (x: Value) => Value) => {
        const y = add(x, pass.dropout(run(c.normFirst ? norm(x) : x), c.dropout));
        return c.normFirst ? y : norm(y);
      };
      let h = add(toHidden(pass.embedded(embedding(ids))), places(add(positions, OFFSET)));
      for (const { attention, first, up, down, second } of layers) {
        h = block(pass.boundary(h), first, attention);
        h = block(h, second, (x) => down(c.activation(up(x))));
      }
      return { lastHiddenState: fromHidden(last(h)) };
    },
  };
}

/** OPT. */
export const opt: Architecture = {
  name: "opt",
  modelTypes: ["opt"],
  bodyPath: "model",
  body,
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  uncounted: () => "padding",
  initializerRange: (config) => configReader(config).number("init_std", 0.02),
};
