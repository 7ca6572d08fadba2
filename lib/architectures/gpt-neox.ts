/**
 * GPT-NeoX (Black et al., 2022, arXiv:2204.06745) and Pythia (Biderman et al., 2023,
 * arXiv:2304.01373), whose blocks attend and transform at one time.
 *
 * @module
 */
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, headSizeOf, RATE } from "./config-reader.ts";
import { answerHead, languageHead, lastTokenHead, tokenHead } from "./heads.ts";
import { checkRope, type RopeConfig, ropeConfig, ropeRules, rotation } from "./rope.ts";
import { layersOf } from "./layers.ts";
import { joinHeads, splitFused } from "./split-heads.ts";

interface NeoxConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly headSize: number;
  readonly bias: boolean;
  readonly parallel: boolean;
  readonly activation: Activation;
  readonly epsilon: number;
  readonly dropout: number;
  readonly attentionDropout: number;
  readonly rope: RopeConfig;
}

function readConfig(config: ModelConfig): NeoxConfig {
  const { size, number, boolean, choice } = configReader(config);
  const hidden = size("hidden_size"), heads = size("num_attention_heads");
  const headSize = headSizeOf(config, { hidden, heads });
  const { rotary_pct = 0.25, rotary_emb_base = 10000 } = config;
  return {
    vocab: size("vocab_size"),
    hidden,
    inner: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    headSize,
    bias: boolean("attention_bias", true),
    parallel: boolean("use_parallel_residual", true),
    activation: choice("hidden_act", "gelu", ACTIVATIONS),
    epsilon: number("layer_norm_eps", 1e-5, EPSILON),
    dropout: number("hidden_dropout", 0, RATE),
    attentionDropout: number("attention_dropout", 0, RATE),
    rope: ropeConfig(
      { partial_rotary_factor: rotary_pct, rope_theta: rotary_emb_base, ...config },
      headSize,
    ),
  };
}

function attention(m: Modules, c: NeoxConfig): (x: Value, rotate: (x: Value) => Value) => Value {
  const { hidden, heads, headSize, bias } = c;
  const attend = m.attention({ features: hidden, heads, headSize });
  const fused = m.linear("query_key_value", { in: hidden, out: 3 * hidden }, { bias });
  const dense = m.linear("dense", { in: hidden, out: hidden }, { bias });
  const part = (x: Value, n: number) => splitFused(fused(x), { heads, parts: 3 })[n];
  return (x, rotate) =>
    attend({
      q: rotate(part(x, 0)),
      over: x,
      keyValues: (x) => ({ k: part(x, 1), v: part(x, 2) }),
      rotate,
      project: (y) => dense(joinHeads(y)),
      dropout: c.attentionDropout,
    });
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden, inner } = c;
  checkRope(c.rope);
  const norm = { kind: "layer", epsilon: c.epsilon } as const;
  const embedding = m.embedding("embed_in", { rows: c.vocab, size: hidden });
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("layers").at(i);
    return {
      before: at.norm("input_layernorm", hidden, norm),
      between: at.norm("post_attention_layernorm", hidden, norm),
      attention: attention(at.at("attention"), c),
      up: at.at("mlp").linear("dense_h_to_4h", { in: hidden, out: inner }),
      down: at.at("mlp").linear("dense_4h_to_h", { in: inner, out: hidden }),
    };
  });
  const last = m.norm("final_layer_norm", hidden, norm);
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const rotate = rotation(pass, positions, c.rope);
      let h = pass.dropout(pass.embedded(embedding(ids)), c.dropout);
      for (const { before, between, attention, up, down } of layers) {
        const x = pass.boundary(h);
        const attended = add(x, pass.dropout(attention(before(x), rotate), c.dropout));
        const inner = c.activation(up(between(c.parallel ? x : attended)));
        h = add(attended, pass.dropout(down(inner), c.dropout));
      }
      return { lastHiddenState: last(h) };
    },
  };
}

/** GPT-NeoX. */
export const gptNeox: Architecture = {
  name: "gpt_neox",
  modelTypes: ["gpt_neox"],
  bodyPath: "gpt_neox",
  body,
  heads: {
    CAUSAL_LM: languageHead({ tied: false }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenHead((config) => configReader(config).number("classifier_dropout", 0.1, RATE)),
    QUESTION_ANS: answerHead,
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$/,
  oldKeys: [[/^embed_out\./, "lm_head."]],
  ...ropeRules((config) => ({ rope: readConfig(config).rope })),
};
