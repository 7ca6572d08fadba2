/**
 * GPT-2 (Radford et al., 2019), whose linear layers are stored [in, out].
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import type { Site } from "../model/site.ts";
import { add } from "../ops/binary.ts";
import { gelu, geluTanh, relu, silu } from "../ops/functions.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { configReader } from "./config-reader.ts";

const ACTIVATIONS: Readonly<Record<string, (x: Value) => Value>> = {
  gelu_new: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  gelu,
  relu,
  silu,
};

interface Gpt2Config {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly positions: number;
  readonly activation: (x: Value) => Value;
  readonly scaled: boolean;
  readonly scaledByLayer: boolean;
}

function readConfig(config: ModelConfig): Gpt2Config {
  const { size, number, boolean, choice } = configReader(config);
  const hidden = size("n_embd"), heads = size("n_head");
  if (hidden % heads) {
    throw new ConfigError(
      "MODEL_CONFIG",
      `The config of a gpt2 model has n_embd ${hidden}, which is no multiple of n_head ${heads}.`,
      { hidden, heads },
    );
  }
  number("layer_norm_epsilon", 1e-5); // read by the norms
  return {
    vocab: size("vocab_size"),
    hidden,
    inner: size("n_inner", 4 * hidden),
    layers: size("n_layer"),
    heads,
    positions: size("n_positions", 1024),
    activation: choice("activation_function", "gelu_new", ACTIVATIONS),
    scaled: boolean("scale_attn_weights", true),
    scaledByLayer: boolean("scale_attn_by_inverse_layer_idx", false),
  };
}

function sites(config: ModelConfig): Site[] {
  const c = readConfig(config);
  const dense = (path: string, inFeatures: number, outFeatures: number): Site => ({
    path,
    kind: "conv1d",
    inFeatures,
    outFeatures,
    bias: true,
  });
  const norm = (path: string): Site => ({
    path,
    kind: "norm",
    inFeatures: c.hidden,
    outFeatures: c.hidden,
    bias: true,
  });
  const table = (path: string, inFeatures: number): Site => ({
    path,
    kind: "embedding",
    inFeatures,
    outFeatures: c.hidden,
    bias: false,
  });
  const list = [table("transformer.wte", c.vocab), table("transformer.wpe", c.positions)];
  for (let i = 0; i < c.layers; i++) {
    const at = `transformer.h.${i}`;
    list.push(
      norm(`${at}.ln_1`),
      dense(`${at}.attn.c_attn`, c.hidden, 3 * c.hidden),
      dense(`${at}.attn.c_proj`, c.hidden, c.hidden),
      norm(`${at}.ln_2`),
      dense(`${at}.mlp.c_fc`, c.hidden, c.inner),
      dense(`${at}.mlp.c_proj`, c.inner, c.hidden),
    );
  }
  list.push(norm("transformer.ln_f"), {
    path: "lm_head",
    kind: "linear",
    inFeatures: c.hidden,
    outFeatures: c.vocab,
    bias: false,
    head: true,
  });
  return list;
}

function forward(
  pass: ForwardPass,
  inputs: { readonly ids: Value; readonly positions: Value },
): Record<string, Value> {
  const { config } = pass.model;
  const c = readConfig(config);
  const [b, t] = inputs.ids.shape;
  const size = c.hidden / c.heads;
  const { number } = configReader(config);
  const dropped = (x: Value, name: string) => pass.dropout(x, number(name, 0.1));
  let h = dropped(
    add(pass.site("transformer.wte", inputs.ids), pass.site("transformer.wpe", inputs.positions)),
    "embd_pdrop",
  );
  for (let i = 0; i < c.layers; i++) {
    const at = `transformer.h.${i}`;
    const qkv = pass.site(`${at}.attn.c_attn`, pass.site(`${at}.ln_1`, pass.boundary(h)));
    const [q, k, v] = [0, 1, 2].map((n) =>
      reshape(sliceAxis(qkv, { axis: 2, start: n * c.hidden, size: c.hidden }), [
        b,
        t,
        c.heads,
        size,
      ])
    );
    const scale = (c.scaled ? 1 / Math.sqrt(size) : 1) / (c.scaledByLayer ? i + 1 : 1);
    const attended = reshape(pass.attention(i, { q, k, v, scale }), [b, t, c.hidden]);
    h = add(h, dropped(pass.site(`${at}.attn.c_proj`, attended), "resid_pdrop"));
    const inner = c.activation(pass.site(`${at}.mlp.c_fc`, pass.site(`${at}.ln_2`, h)));
    h = add(h, dropped(pass.site(`${at}.mlp.c_proj`, inner), "resid_pdrop"));
  }
  const lastHiddenState = pass.site("transformer.ln_f", h);
  return { lastHiddenState, logits: pass.site("lm_head", pass.headRows(lastHiddenState)) };
}

/** GPT-2. */
export const gpt2: Architecture = {
  name: "gpt2",
  modelTypes: ["gpt2"],
  sites,
  tied: (config): Readonly<Record<string, string>> =>
    configReader(config).boolean("tie_word_embeddings", true)
      ? { "lm_head.weight": "transformer.wte.weight" }
      : {},
  ignoredKeys: /\.attn\.(bias|masked_bias)$/,
  basePrefix: "transformer.",
  cache: (config) => {
    const c = readConfig(config);
    return { layers: c.layers, heads: c.heads, headSize: c.hidden / c.heads };
  },
  forward,
  hostInputs: () => ({}),
  positionLimit: (config) => readConfig(config).positions,
  vocabularySize: (config) => readConfig(config).vocab,
  initializerRange: (config) => configReader(config).number("initializer_range", 0.02),
};
