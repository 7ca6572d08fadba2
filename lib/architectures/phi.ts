/**
 * Phi 1, 1.5 and 2 (Gunasekar et al., 2023, arXiv:2306.11644), whose blocks attend and transform at
 * one time.
 *
 * @module
 */
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, headSizeOf, RATE } from "./config-reader.ts";
import { languageHead, lastTokenHead, tokenScoreHead } from "./heads.ts";
import { checkRope, type RopeConfig, ropeConfig, ropeRules, rotation } from "./rope.ts";
import { layersOf } from "./layers.ts";
import { joinHeads, splitHeads } from "./split-heads.ts";

interface PhiConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly keyHeads: number;
  readonly headSize: number;
  readonly headNorm: boolean;
  readonly activation: Activation;
  readonly epsilon: number;
  readonly embeddingDropout: number;
  readonly residualDropout: number;
  readonly attentionDropout: number;
  readonly rope: RopeConfig;
}

function readConfig(config: ModelConfig): PhiConfig {
  const { size, number, boolean, choice } = configReader(config);
  const hidden = size("hidden_size"), heads = size("num_attention_heads");
  const keyHeads = size("num_key_value_heads", heads);
  const headSize = headSizeOf(config, { hidden, heads, keyHeads });
  return {
    vocab: size("vocab_size"),
    hidden,
    inner: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    keyHeads,
    headSize,
    headNorm: boolean("qk_layernorm", false),
    activation: choice("hidden_act", "gelu_new", ACTIVATIONS),
    epsilon: number("layer_norm_eps", 1e-5, EPSILON),
    embeddingDropout: number("embd_pdrop", 0, RATE),
    residualDropout: number("resid_pdrop", 0, RATE),
    attentionDropout: number("attention_dropout", 0, RATE),
    rope: ropeConfig({ partial_rotary_factor: 0.5, ...config }, headSize),
  };
}

function attention(m: Modules, c: PhiConfig): (x: Value, rotate: (x: Value) => Value) => Value {
  const { hidden, heads, keyHeads, headSize } = c;
  const attend = m.attention({ features: hidden, heads, keyHeads, headSize });
  const [q, k, v] = ([["q_proj", heads], ["k_proj", keyHeads], ["v_proj", keyHeads]] as const).map(
    ([name, count]) => {
      const layer = m.linear(name, { in: hidden, out: count * headSize });
      return (x: Value) => splitHeads(layer(x), count);
    },
  );
  const dense = m.linear("dense", { in: heads * headSize, out: hidden });
  const norm = (name: string) =>
    c.headNorm ? m.norm(name, headSize, { kind: "layer", epsilon: c.epsilon }) : (x: Value) => x;
  const qNorm = norm("q_layernorm"), kNorm = norm("k_layernorm");
  return (x, rotate) =>
    attend({
      q: rotate(qNorm(q(x))),
      over: x,
      keyValues: (x) => ({ k: kNorm(k(x)), v: v(x) }),
      rotate,
      project: (y) => dense(joinHeads(y)),
      dropout: c.attentionDropout,
    });
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, inner } = c;
  checkRope(c.rope);
  const norm = { kind: "layer", epsilon: c.epsilon } as const;
  const embedding = m.embedding("embed_tokens", { rows: c.vocab, size: hidden });
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("layers").at(i);
    return {
      attention: attention(at.at("self_attn"), c),
      up: at.at("mlp").linear("fc1", { in: hidden, out: inner }),
      down: at.at("mlp").linear("fc2", { in: inner, out: hidden }),
      before: at.norm("input_layernorm", hidden, norm),
    };
  });
  const last = m.norm("final_layernorm", hidden, norm);
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const rotate = rotation(pass, positions, c.rope);
      let h = pass.dropout(pass.embedded(embedding(ids)), c.embeddingDropout);
      for (const { attention, up, down, before } of layers) {
        const x = before(pass.boundary(h));
        const attended = pass.dropout(attention(x, rotate), c.residualDropout);
        const fed = pass.dropout(down(c.activation(up(x))), c.residualDropout);
        h = add(add(attended, fed), h);
      }
      return { lastHiddenState: last(h) };
    },
  };
}

/** Phi. */
export const phi: Architecture = {
  name: "phi",
  modelTypes: ["phi"],
  bodyPath: "model",
  body,
  heads: {
    CAUSAL_LM: languageHead({
      tied: false,
      bias: true,
    }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenScoreHead,
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /rotary_emb\.inv_freq$/,
  ...ropeRules((config) => ({ rope: readConfig(config).rope })),
};
