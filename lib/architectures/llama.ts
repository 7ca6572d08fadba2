/**
 * The llama family: Llama, Mistral, SmolLM2 and Qwen2/2.5/3, which differ by config only.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add, mul } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { show } from "../options.ts";
import { configReader, EPSILON, RATE } from "./config-reader.ts";
import { answerHead, bodyAt, languageHead, lastTokenHead, tokenScoreHead } from "./heads.ts";
import { checkRope, ropeConfig, ropeLimit, ropeTables, rotation } from "./rope.ts";
import { layersOf } from "./layers.ts";
import { joinHeads, splitHeads } from "./split-heads.ts";

interface LlamaConfig {
  readonly vocab: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly heads: number;
  readonly keyHeads: number;
  readonly headSize: number;
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  readonly headNorm: boolean;
  readonly epsilon: number;
  readonly attentionDropout: number;
  readonly activation: Activation;
  readonly window: (layer: number) => number | null;
}

function readConfig(config: ModelConfig): LlamaConfig {
  const { size, optionalSize, number, boolean, choice } = configReader(
    config,
  );
  const type = config.model_type as string;
  const heads = size("num_attention_heads"), hidden = size("hidden_size");
  const keyHeads = size("num_key_value_heads", heads);
  const headSize = size("head_dim", type === "qwen3" ? 128 : hidden / heads);
  if (heads % keyHeads || headSize % 2) {
    throw new ConfigError(
      "MODEL_CONFIG",
      `The config of a ${type} model has ${heads} heads for ${keyHeads} of keys and values, each of size ${headSize}: ` +
        "the first must be a multiple of the second, and the size even.",
      { heads, keyHeads, headSize },
    );
  }
  const window = optionalSize("sliding_window");
  const useWindow = boolean("use_sliding_window", !type.startsWith("qwen"));
  const sliding = useWindow ? window : null;
  const bias = boolean("attention_bias", false);
  const kinds = config.layer_types ?? null;
  if (kinds !== null && !Array.isArray(kinds)) {
    throw new ConfigError(
      "MODEL_CONFIG",
      `The config of a ${type} model needs a list for "layer_types"; found ${show(kinds)}.`,
    );
  }
  return {
    vocab: size("vocab_size"),
    hidden,
    intermediate: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    keyHeads,
    headSize,
    qkvBias: type === "qwen2" ? true : bias,
    outputBias: type === "qwen2" ? false : bias,
    mlpBias: boolean("mlp_bias", false),
    headNorm: type === "qwen3",
    epsilon: number("rms_norm_eps", 1e-6, EPSILON),
    attentionDropout: number("attention_dropout", 0, RATE),
    activation: choice("hidden_act", "silu", ACTIVATIONS),
    window: (layer) => {
      if (kinds) return kinds[layer] === "sliding_attention" ? sliding : null;
      if (type === "mistral") return sliding;
      if (!type.startsWith("qwen")) return null;
      return layer >= number("max_window_layers", 28) ? sliding : null;
    },
  };
}

/** What differs from one run of attention to another. */
interface Place {
  rotate(x: Value): Value;
  readonly window: number | null;
}

/** The attention of one layer: its modules, and how they run. */
function attention(
  m: Modules,
  c: LlamaConfig,
): (x: Value, at: Place) => Value {
  const { heads, keyHeads, headSize, hidden } = c;
  const attend = m.attention({ features: hidden, heads, keyHeads, headSize });
  const project = (name: string, count: number) => {
    const layer = m.linear(name, { in: hidden, out: count * headSize }, { bias: c.qkvBias });
    return (x: Value) => splitHeads(layer(x), count);
  };
  const q = project("q_proj", heads), k = project("k_proj", keyHeads);
  const v = project("v_proj", keyHeads);
  const o = m.linear("o_proj", { in: heads * headSize, out: hidden }, { bias: c.outputBias });
  const norm = (name: string) =>
    c.headNorm ? m.norm(name, headSize, { kind: "rms", epsilon: c.epsilon }) : (x: Value) => x;
  const qNorm = norm("q_norm"), kNorm = norm("k_norm");
  return (x, { rotate, window }) =>
    attend({
      q: rotate(qNorm(q(x))),
      over: x,
      keyValues: (x) => ({ k: kNorm(k(x)), v: v(x) }),
      rotate,
      project: (y) => o(joinHeads(y)),
      window,
      dropout: c.attentionDropout,
    });
}

function feedForward(m: Modules, c: LlamaConfig): (x: Value) => Value {
  const { hidden, intermediate, mlpBias: bias } = c;
  const gate = m.linear("gate_proj", { in: hidden, out: intermediate }, { bias });
  const up = m.linear("up_proj", { in: hidden, out: intermediate }, { bias });
  const down = m.linear("down_proj", { in: intermediate, out: hidden }, { bias });
  return (x) => {
    const opened = c.activation(gate(x));
    return down(mul(opened, up(x)));
  };
}

function body(m: Modules, config: ModelConfig): Body {
  const c = readConfig(config), { hidden } = c;
  const rope = ropeConfig(config, c.headSize);
  checkRope(rope);
  const norm = { kind: "rms", epsilon: c.epsilon } as const;
  const embedding = m.embedding("embed_tokens", { rows: c.vocab, size: hidden });
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("layers").at(i);
    return {
      attention: attention(at.at("self_attn"), c),
      feedForward: feedForward(at.at("mlp"), c),
      before: at.norm("input_layernorm", hidden, norm),
      between: at.norm("post_attention_layernorm", hidden, norm),
      window: c.window(i),
    };
  });
  const last = m.norm("norm", hidden, norm);
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const turned = rotation(pass, positions, rope);
      let h = pass.embedded(embedding(ids));
      for (const { attention, feedForward, before, between, window } of layers) {
        h = add(h, attention(before(pass.boundary(h)), { rotate: turned, window }));
        h = add(h, feedForward(between(h)));
      }
      return { lastHiddenState: last(h) };
    },
  };
}

/** Llama (Touvron et al., 2023, arXiv:2302.13971), SmolLM2 and Qwen2/2.5/3. */
export const llama: Architecture = {
  name: "llama",
  modelTypes: ["llama", "qwen2", "qwen3", "smollm"],
  bodyPath: "model",
  body,
  heads: {
    CAUSAL_LM: languageHead({
      tied: (config) => configReader(config).boolean("tie_word_embeddings", false),
    }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenScoreHead,
    QUESTION_ANS: bodyAt("transformer", answerHead),
    FEATURE_EXTRACTION: null,
  },
  ignoredKeys: /rotary_emb\.inv_freq$/,
  maxPositions: (config) =>
    config.max_position_embeddings == null
      ? Infinity
      : ropeLimit(ropeConfig(config, readConfig(config).headSize)),
  hostInputs: (config, inputs) =>
    ropeTables(ropeConfig(config, readConfig(config).headSize), inputs),
};

/** Mistral (Jiang et al., 2023, arXiv:2310.06825). */
export const mistral: Architecture = {
  ...llama,
  name: "mistral",
  modelTypes: ["mistral"],
  heads: { ...llama.heads, QUESTION_ANS: answerHead },
};
