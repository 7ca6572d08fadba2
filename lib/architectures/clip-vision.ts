/**
 * The vision tower of CLIP (Radford et al., 2021, arXiv:2103.00020).
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { add } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import { readTower, type Tower, towerAlone, towerConfig } from "./clip-tower.ts";
import { type Patches, patchLayer, patchRows, readPatches } from "./patches.ts";
import { firstRows } from "./text-rows.ts";
import { transformerLayer } from "./transformer-layer.ts";

/** Of ViT-B/32. */
const USUAL = {
  hidden_size: 768,
  intermediate_size: 3072,
  num_hidden_layers: 12,
  num_attention_heads: 12,
};

function visionConfig(config: ModelConfig): ModelConfig {
  return towerConfig(config, { name: "vision", usual: USUAL });
}

/** What the tower takes: an image for each row, or beside rows of text. */
export function visionPatches(config: ModelConfig): Patches {
  const axis = config.model_type === "clip" ? "images" : "batch";
  return readPatches(visionConfig(config), { patch: 32, axis });
}

/** Declares the tower, of a config of its own or of both towers. */
export function visionTower(m: Modules, config: ModelConfig): Tower {
  const c = { ...readTower(visionConfig(config)), ...visionPatches(config), causal: false };
  const { hidden, rows, norm } = c, at = m.at("embeddings");
  const whole = at.parameter("class_embedding", [hidden]);
  const project = patchLayer(at, "patch_embedding", { ...c, bias: false });
  const places = at.embedding("position_embedding", { rows, size: hidden }, { positions: rows });
  const first = m.norm("pre_layrnorm", hidden, norm), encoder = m.at("encoder");
  const layers = encoder.layers(
    "layers",
    c.layers,
    (m, layer) => transformerLayer(m, c, { layer, over: "patches" }),
  );
  const last = m.norm("post_layernorm", hidden, norm);
  return {
    hidden,
    run(pass) {
      const seen = patchRows(project(pass.batchInput(c.pixels)), whole());
      let h = first(add(seen, places(iota(seen.graph, [1, rows], { axis: 1 }))));
      for (const layer of layers) h = layer.run(pass, { x: pass.boundary(h) });
      return { lastHiddenState: h, poolerOutput: last(firstRows(h)) };
    },
  };
}

/** The vision tower of CLIP. */
export const clipVision: Architecture = {
  name: "clip vision",
  modelTypes: ["clip_vision_model"],
  reads: (config) => [visionPatches(config).pixels],
  ...towerAlone({
    at: "vision_model",
    projection: "visual_projection",
    output: "imageEmbeds",
    tower: visionTower,
  }),
};
