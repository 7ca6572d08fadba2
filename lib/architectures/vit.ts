/**
 * ViT (Dosovitskiy et al., 2021, arXiv:2010.11929): an encoder of the patches of an image.
 *
 * @module
 */
import type { Architecture, Body, Head, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add } from "../ops/elementwise.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { configReader } from "./config-reader.ts";
import { classes } from "./heads.ts";
import { type Patches, patchLayer, patchRows, readPatches } from "./patches.ts";
import { readLayers } from "./read-transformer.ts";
import { firstRows } from "./text-rows.ts";
import { type LayerRule, transformerLayer } from "./transformer-layer.ts";

/** Of ViT-Base. */
const USUAL = {
  hidden_size: 768,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  intermediate_size: 3072,
};

function readConfig(given: ModelConfig): LayerRule & Patches & { readonly layers: number } {
  const config = { ...USUAL, ...given };
  const { rate, boolean } = configReader(config);
  return {
    ...readLayers(config, { epsilon: 1e-12 }),
    ...readPatches(config, { patch: 16 }),
    layer: () => ({
      attention: { at: "attention", q: "q_proj", k: "k_proj", v: "v_proj", output: "o_proj" },
      beforeAttention: "layernorm_before",
      beforeFeed: "layernorm_after",
      feed: { up: "mlp.fc1", down: "mlp.fc2" },
    }),
    bias: { qkv: boolean("qkv_bias", true) },
    causal: false,
    dropout: {
      attention: rate("attention_probs_dropout_prob"),
      residual: rate("hidden_dropout_prob"),
    },
  };
}

function body(m: Modules, config: ModelConfig, task: string): Body {
  const c = readConfig(config), { hidden } = c, at = m.at("embeddings");
  const { size, choice } = configReader(config);
  const whole = at.parameter("cls_token", [1, 1, hidden]);
  const places = at.parameter("position_embeddings", [1, c.rows, hidden]);
  const project = patchLayer(at.at("patch_embeddings"), "projection", { ...c, bias: true });
  const layers = m.layers(
    "layers",
    c.layers,
    (m, layer) => transformerLayer(m, c, { layer, over: "patches" }),
  );
  const last = m.norm("layernorm", hidden, c.norm);
  const pooler = task === "FEATURE_EXTRACTION"
    ? m.at("pooler").linear("dense", { in: hidden, out: size("pooler_output_size", hidden) })
    : undefined;
  const pooled = choice("pooler_act", "tanh", ACTIVATIONS);
  return {
    hidden,
    run(pass) {
      const rows = patchRows(project(pass.batchInput(c.pixels)), whole());
      let h = pass.dropout(add(rows, places()), c.dropout.residual!);
      for (const layer of layers) h = layer.run(pass, { x: pass.boundary(h) });
      const lastHiddenState = last(h);
      return {
        lastHiddenState,
        ...(pooler && { poolerOutput: pooled(pooler(firstRows(lastHiddenState))) }),
      };
    },
  };
}

const head: Head = (m, { config, body }) => {
  const classifier = m.linear("classifier", classes(config, body), { head: true });
  return (_pass, outputs) => ({
    ...outputs,
    logits: classifier(firstRows(outputs.lastHiddenState)),
  });
};

/** ViT. */
export const vit: Architecture = {
  name: "vit",
  modelTypes: ["vit"],
  bodyPath: "vit",
  reads: (config) => [readConfig(config).pixels],
  body,
  heads: { SEQ_CLS: head, FEATURE_EXTRACTION: null },
  classEndings: { SEQ_CLS: "ForImageClassification" },
  fileNames: [
    ["layers.", "encoder.layer."],
    ["attention.q_proj.", "attention.attention.query."],
    ["attention.k_proj.", "attention.attention.key."],
    ["attention.v_proj.", "attention.attention.value."],
    ["attention.o_proj.", "attention.output.dense."],
    ["mlp.fc1.", "intermediate.dense."],
    ["mlp.fc2.", "output.dense."],
  ],
};
