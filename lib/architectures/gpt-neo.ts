/**
 * GPT-Neo (Black et al., 2021), every other layer of which sees near tokens only.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { show } from "../options.ts";
import { configReader } from "./config-reader.ts";
import { gpt2 } from "./gpt2.ts";
import { GPT2_FIELDS, readTransformer } from "./read-transformer.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

const FIELDS = {
  ...GPT2_FIELDS,
  hidden: "hidden_size",
  inner: "intermediate_size",
  layers: "num_layers",
  heads: "num_heads",
};

/** Whether a layer sees near tokens only: "attention_types" lists kinds, and how often they recur. */
function isLocal(config: ModelConfig, layer: number): boolean {
  const types = configReader(config).list("attention_types");
  let place = layer;
  for (const run of types ?? [[["global", "local"], Infinity]]) {
    const [kinds, times] = [run].flat() as [readonly string[], number];
    const count = Number(kinds?.length) * times;
    if (place < count) return kinds[place % kinds.length] === "local";
    place -= count;
  }
  throw new ConfigError(
    "MODEL_CONFIG",
    `The config of a gpt_neo model needs a kind for layer ${layer} in "attention_types"; found ${
      show(types)
    }.`,
  );
}

function readConfig(config: ModelConfig): Transformer {
  const { size, rate } = configReader(config), window = size("window_size", 256);
  return {
    ...readTransformer(config, { fields: FIELDS, inner: (n) => 4 * n, activation: "gelu_new" }),
    names: { embedding: "wte", positions: "wpe", layers: "h", last: "ln_f" },
    layer: () => ({
      beforeAttention: "ln_1",
      attention: {
        at: "attn.attention",
        k: "k_proj",
        v: "v_proj",
        q: "q_proj",
        output: "out_proj",
      },
      beforeFeed: "ln_2",
      feed: { at: "mlp", up: "c_fc", down: "c_proj" },
    }),
    positions: { rows: size("max_position_embeddings", 2048) },
    bias: { qkv: false },
    scale: () => 1,
    window: (i) => isLocal(config, i) ? window : null,
    dropout: {
      embedding: rate("embed_dropout"),
      attention: rate("attention_dropout"),
      residual: rate("resid_dropout"),
    },
  };
}

/** GPT-Neo. */
export const gptNeo: Architecture = {
  ...transformerRules(readConfig),
  name: "gpt_neo",
  modelTypes: ["gpt_neo"],
  bodyPath: "transformer",
  heads: gpt2.heads,
  ignoredKeys: /\.attention\.(bias|masked_bias)$/,
};
