/**
 * MPT (MosaicML, 2023), whose attention falls off with distance.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { alibi, alibiSlopes } from "./alibi.ts";
import { configReader, fieldsOf } from "./config-reader.ts";
import { gpt2 } from "./gpt2.ts";
import { readTransformer } from "./read-transformer.ts";
import { type Transformer, transformerRules } from "./transformer.ts";

const FIELDS = {
  hidden: "d_model",
  layers: "n_layers",
  heads: "n_heads",
  epsilon: "layer_norm_epsilon",
};

function readConfig(config: ModelConfig): Transformer {
  const c = readTransformer(config, { fields: FIELDS, inner: (n) => 4 * n });
  const own = { model_type: "mpt", ...fieldsOf(config.attn_config) } as ModelConfig;
  const { rate, number } = configReader(own),
    optional = (name: string) => own[name] == null ? undefined : number(name);
  const dropout = rate("attn_pdrop");
  return {
    ...c,
    inner: 4 * c.hidden,
    activation: ACTIVATIONS.gelu,
    norm: { ...c.norm, bias: false },
    names: { embedding: "wte", layers: "blocks", last: "norm_f" },
    layer: () => ({
      beforeAttention: "norm_1",
      attention: { at: "attn", qkv: "Wqkv", output: "out_proj" },
      beforeFeed: "norm_2",
      feed: { at: "ffn", up: "up_proj", down: "down_proj" },
    }),
    bias: { qkv: false, output: false, feed: false },
    clip: optional("clip_qkv"),
    scale: () => optional("softmax_scale"),
    scoreBias: () => alibi(alibiSlopes(c.heads)),
    dropout: { attention: dropout, residual: dropout },
  };
}

/** MPT. */
export const mpt: Architecture = {
  ...transformerRules(readConfig),
  name: "mpt",
  modelTypes: ["mpt"],
  bodyPath: "transformer",
  heads: gpt2.heads,
};
