/**
 * What the two towers of CLIP have in common.
 *
 * @module
 */
import type {
  Architecture,
  ArchitecturePass,
  Body,
  ModelConfig,
  PassInputs,
} from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import type { Value } from "../ops/value.ts";
import { configReader, fieldsOf } from "./config-reader.ts";
import { readLayers } from "./read-transformer.ts";
import type { LayerRule } from "./transformer-layer.ts";

/** What a tower makes of a batch. */
export interface Tower extends Body {
  /** Traces it; gives the state of all rows, and of the one that stands for the whole. */
  run(pass: ArchitecturePass, inputs: PassInputs): {
    readonly lastHiddenState: Value;
    readonly poolerOutput: Value;
  };
}

/** The config of a tower: that of a model of it alone, or a part of the config of both. */
export function towerConfig(
  config: ModelConfig,
  of: { readonly name: "text" | "vision"; readonly usual: ModelConfig },
): ModelConfig {
  const own = config.model_type === "clip" ? fieldsOf(config[`${of.name}_config`]) : config;
  return { model_type: `clip_${of.name}_model`, ...of.usual, ...own };
}

/** What a config says about the layers of a tower. */
export function readTower(config: ModelConfig): LayerRule & { readonly layers: number } {
  return {
    ...readLayers(config, { activation: "quick_gelu" }),
    layer: () => ({
      attention: { at: "self_attn", k: "k_proj", v: "v_proj", q: "q_proj", output: "out_proj" },
      beforeAttention: "layer_norm1",
      feed: { up: "mlp.fc1", down: "mlp.fc2" },
      beforeFeed: "layer_norm2",
    }),
    dropout: { attention: configReader(config).rate("attention_dropout") },
  };
}

/** A tower alone, perhaps with a projection, as the class that a config names has it. */
export function towerAlone(of: {
  /** Where it is, where it has a projection. */
  readonly at: string;
  /** The projection. */
  readonly projection: string;
  /** What that gives. */
  readonly output: string;
  /** Declares the tower. */
  tower(m: Modules, config: ModelConfig): Tower;
}): Pick<Architecture, "bodyPath" | "body" | "heads" | "ignoredKeys"> {
  return {
    bodyPath: of.at,
    body(m, config) {
      const isProjected = String([config.architectures].flat()[0]).endsWith("WithProjection");
      const tower = of.tower(isProjected ? m.at(of.at) : m, config);
      if (!isProjected) return tower;
      const sizes = { in: tower.hidden, out: configReader(config).size("projection_dim", 512) };
      const project = m.linear(of.projection, sizes, { bias: false });
      return {
        ...tower,
        run(pass, inputs) {
          const { poolerOutput, lastHiddenState } = tower.run(pass, inputs);
          return { lastHiddenState, [of.output]: project(poolerOutput) };
        },
      };
    },
    heads: { FEATURE_EXTRACTION: null },
    ignoredKeys: CLIP_BUFFERS,
  };
}

/** Buffers in checkpoints. */
export const CLIP_BUFFERS = /embeddings\.position_ids$/;
