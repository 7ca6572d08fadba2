/**
 * The llama family: Llama, Mistral, SmolLM2 and Qwen2/2.5/3, which differ by config only.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import type { Site } from "../model/site.ts";
import { add, mul } from "../ops/binary.ts";
import { concat } from "../ops/concat.ts";
import { geluTanh, relu, silu } from "../ops/functions.ts";
import { gelu } from "../ops/functions.ts";
import { reshape } from "../ops/reshape.ts";
import { rope } from "../ops/rope.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { configReader } from "./config-reader.ts";
import { ropeConfig, ropeTables } from "./rope.ts";

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
  readonly tied: boolean;
  readonly activation: (x: Value) => Value;
  readonly window: (layer: number) => number | null;
}

const ACTIVATIONS: Readonly<Record<string, (x: Value) => Value>> = {
  silu,
  swish: silu,
  gelu,
  gelu_new: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  relu,
};

function readConfig(config: ModelConfig): LlamaConfig {
  const { size, optionalSize, number, boolean, choice } = configReader(config);
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
  number("rms_norm_eps", 1e-6); // read by the norms
  const window = optionalSize("sliding_window");
  const useWindow = boolean("use_sliding_window", !type.startsWith("qwen"));
  const sliding = useWindow ? window : null;
  const bias = boolean("attention_bias", false);
  const kinds = config.layer_types as readonly string[] | null | undefined;
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
    tied: boolean("tie_word_embeddings", false),
    activation: choice("hidden_act", "silu", ACTIVATIONS),
    window: (layer) => {
      if (kinds) return kinds[layer] === "sliding_attention" ? sliding : null;
      if (type === "mistral") return sliding;
      if (!type.startsWith("qwen")) return null;
      return layer >= number("max_window_layers", 28) ? sliding : null;
    },
  };
}

function sites(config: ModelConfig): Site[] {
  const c = readConfig(config);
  const q = c.heads * c.headSize, kv = c.keyHeads * c.headSize;
  const linear = (path: string, inFeatures: number, outFeatures: number, bias: boolean): Site => ({
    path,
    kind: "linear",
    inFeatures,
    outFeatures,
    bias,
  });
  const norm = (path: string, size: number): Site => ({
    path,
    kind: "norm",
    inFeatures: size,
    outFeatures: size,
    bias: false,
  });
  const list: Site[] = [{
    path: "model.embed_tokens",
    kind: "embedding",
    inFeatures: c.vocab,
    outFeatures: c.hidden,
    bias: false,
  }];
  for (let i = 0; i < c.layers; i++) {
    const at = `model.layers.${i}`;
    list.push(
      linear(`${at}.self_attn.q_proj`, c.hidden, q, c.qkvBias),
      linear(`${at}.self_attn.k_proj`, c.hidden, kv, c.qkvBias),
      linear(`${at}.self_attn.v_proj`, c.hidden, kv, c.qkvBias),
      linear(`${at}.self_attn.o_proj`, q, c.hidden, c.outputBias),
    );
    if (c.headNorm) {
      list.push(
        norm(`${at}.self_attn.q_norm`, c.headSize),
        norm(`${at}.self_attn.k_norm`, c.headSize),
      );
    }
    list.push(
      linear(`${at}.mlp.gate_proj`, c.hidden, c.intermediate, c.mlpBias),
      linear(`${at}.mlp.up_proj`, c.hidden, c.intermediate, c.mlpBias),
      linear(`${at}.mlp.down_proj`, c.intermediate, c.hidden, c.mlpBias),
      norm(`${at}.input_layernorm`, c.hidden),
      norm(`${at}.post_attention_layernorm`, c.hidden),
    );
  }
  list.push(norm("model.norm", c.hidden), {
    ...linear("lm_head", c.hidden, c.vocab, false),
    head: true,
  });
  return list;
}

function rotate(x: Value, angles: { readonly cos: Value; readonly sin: Value }): Value {
  const size = angles.cos.shape[2] * 2, full = x.shape[3];
  if (size === full) return rope(x, angles);
  return concat([
    rope(sliceAxis(x, { axis: 3, start: 0, size }), angles),
    sliceAxis(x, { axis: 3, start: size, size: full - size }),
  ], { axis: 3 });
}

function forward(
  pass: ForwardPass,
  inputs: { readonly ids: Value; readonly positions: Value },
): Record<string, Value> {
  const c = readConfig(pass.model.config);
  const [b, t] = inputs.ids.shape;
  const half = ropeConfig(pass.model.config, c.headSize).size / 2;
  const angles = {
    cos: pass.hostInput("rope.cos", { shape: [b, t, half], dtype: "f32" }),
    sin: pass.hostInput("rope.sin", { shape: [b, t, half], dtype: "f32" }),
  };
  let h = pass.site("model.embed_tokens", inputs.ids);
  for (let i = 0; i < c.layers; i++) {
    const at = `model.layers.${i}`;
    const x = pass.site(`${at}.input_layernorm`, pass.boundary(h));
    const heads = (name: string, count: number, normed: boolean) => {
      const y = reshape(pass.site(`${at}.self_attn.${name}_proj`, x), [b, t, count, c.headSize]);
      return normed ? pass.site(`${at}.self_attn.${name}_norm`, y) : y;
    };
    const attended = pass.attention(i, {
      q: rotate(heads("q", c.heads, c.headNorm), angles),
      k: rotate(heads("k", c.keyHeads, c.headNorm), angles),
      v: heads("v", c.keyHeads, false),
      window: c.window(i),
    });
    const flat = reshape(attended, [b, t, c.heads * c.headSize]);
    h = add(h, pass.site(`${at}.self_attn.o_proj`, flat));
    const z = pass.site(`${at}.post_attention_layernorm`, h);
    const gate = c.activation(pass.site(`${at}.mlp.gate_proj`, z));
    h = add(h, pass.site(`${at}.mlp.down_proj`, mul(gate, pass.site(`${at}.mlp.up_proj`, z))));
  }
  const lastHiddenState = pass.site("model.norm", h);
  return { lastHiddenState, logits: pass.site("lm_head", pass.headRows(lastHiddenState)) };
}

/**
 * Llama (Touvron et al., 2023, arXiv:2302.13971), Mistral (arXiv:2310.06825), SmolLM2 and
 * Qwen2/2.5/3.
 */
export const llama: Architecture = {
  name: "llama",
  modelTypes: ["llama", "mistral", "qwen2", "qwen3", "smollm"],
  sites,
  tied: (config): Readonly<Record<string, string>> =>
    readConfig(config).tied ? { "lm_head.weight": "model.embed_tokens.weight" } : {},
  ignoredKeys: /rotary_emb\.inv_freq$/,
  basePrefix: "model.",
  cache: (config) => {
    const c = readConfig(config);
    return { layers: c.layers, heads: c.keyHeads, headSize: c.headSize };
  },
  forward,
  hostInputs: (config, inputs) =>
    ropeTables(ropeConfig(config, readConfig(config).headSize), inputs),
  vocabularySize: (config) => readConfig(config).vocab,
  initializerRange: (config) => configReader(config).number("initializer_range", 0.02),
};
