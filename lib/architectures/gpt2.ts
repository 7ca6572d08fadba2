/**
 * GPT-2 (Radford et al., 2019), whose linear layers are stored [in, out].
 *
 * @module
 */
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, headSizeOf, RATE } from "./config-reader.ts";
import { answerHead, classifierDropout, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { layersOf } from "./layers.ts";
import { joinHeads, splitStacked } from "./split-heads.ts";

interface Gpt2Config {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  readonly positions: number;
  readonly activation: Activation;
  readonly epsilon: number;
  readonly embeddingDropout: number;
  readonly attentionDropout: number;
  readonly residualDropout: number;
  readonly scaled: boolean;
  readonly scaledByLayer: boolean;
}

function readConfig(config: ModelConfig): Gpt2Config {
  const { size, boolean, choice, number } = configReader(config);
  const hidden = size("n_embd"), heads = size("n_head");
  return {
    vocab: size("vocab_size"),
    hidden,
    inner: size("n_inner", 4 * hidden),
    layers: size("n_layer"),
    heads,
    headSize: headSizeOf(config, { hidden, heads }),
    positions: size("n_positions", 1024),
    activation: choice("activation_function", "gelu_new", ACTIVATIONS),
    epsilon: number("layer_norm_epsilon", 1e-5, EPSILON),
    embeddingDropout: number("embd_pdrop", 0.1, RATE),
    attentionDropout: number("attn_pdrop", 0.1, RATE),
    residualDropout: number("resid_pdrop", 0.1, RATE),
    scaled: boolean("scale_attn_weights", true),
    scaledByLayer: boolean("scale_attn_by_inverse_layer_idx", false),
  };
}

/** The attention of one layer, whose queries, keys and values come out of one linear layer. */
function attention(m: Modules, c: Gpt2Config, layer: number): (x: Value) => Value {
  const { hidden, heads, headSize } = c;
  const attend = m.attention({ features: hidden, heads, headSize });
  const qkv = m.linear("c_attn", { in: hidden, out: 3 * hidden }, { stored: "in-out" });
  const out = m.linear("c_proj", { in: hidden, out: hidden }, { stored: "in-out" });
  const part = (x: Value, n: number) => splitStacked(qkv(x), { heads, parts: 3 })[n];
  return (x) =>
    attend({
      q: part(x, 0),
      over: x,
      keyValues: (x) => ({ k: part(x, 1), v: part(x, 2) }),
      project: (y) => out(joinHeads(y)),
      scale: (c.scaled ? 1 / Math.sqrt(headSize) : 1) / (c.scaledByLayer ? layer + 1 : 1),
      dropout: c.attentionDropout,
    });
}

function feedForward(m: Modules, c: Gpt2Config): (x: Value) => Value {
  const inner = m.linear("c_fc", { in: c.hidden, out: c.inner }, { stored: "in-out" });
  const out = m.linear("c_proj", { in: c.inner, out: c.hidden }, { stored: "in-out" });
  return (x) => out(c.activation(inner(x)));
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, positions: rows } = c;
  const norm = { kind: "layer", epsilon: c.epsilon } as const;
  const embedding = m.embedding("wte", { rows: c.vocab, size: hidden });
  const places = m.embedding("wpe", { rows, size: hidden }, { positions: rows });
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("h").at(i);
    return {
      before: at.norm("ln_1", hidden, norm),
      attention: attention(at.at("attn"), c, i),
      between: at.norm("ln_2", hidden, norm),
      feedForward: feedForward(at.at("mlp"), c),
    };
  });
  const last = m.norm("ln_f", hidden, norm);
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const rows = pass.embedded(embedding(ids));
      let h = pass.dropout(add(rows, places(positions)), c.embeddingDropout);
      for (const { before, attention, between, feedForward } of layers) {
        const attended = attention(before(pass.boundary(h)));
        h = add(h, pass.dropout(attended, c.residualDropout));
        h = add(h, pass.dropout(feedForward(between(h)), c.residualDropout));
      }
      return { lastHiddenState: last(h) };
    },
  };
}

/** GPT-2. */
export const gpt2: Architecture = {
  name: "gpt2",
  modelTypes: ["gpt2"],
  bodyPath: "transformer",
  body,
  heads: {
    CAUSAL_LM: languageHead({ tied: true }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead(classifierDropout),
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  classEndings: { CAUSAL_LM: "LMHeadModel" },
  ignoredKeys: /\.attn\.(bias|masked_bias)$/,
};
