/**
 * The text models of Gemma 3 (Gemma Team, 2025, arXiv:2503.19786), which rotate by other angles
 * where they see near tokens only.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader, fieldsOf } from "./config-reader.ts";
import { decoderRules } from "./gated-decoder.ts";
import { GEMMA_HEADS } from "./gemma.ts";
import { readLocalGemma } from "./gemma2.ts";
import { ropeConfig } from "./rope-config.ts";
import type { Transformer } from "./transformer.ts";

function readConfig(given: ModelConfig): Transformer {
  const { rope_parameters: _, ...config } = given;
  const pattern = configReader(config).number("sliding_window_pattern", 6);
  const c = readLocalGemma(config, { pattern, headNorms: true });
  return {
    ...c,
    ropes: ropesOf(given, c.headSize),
    rope: (layer) => c.isLocal(layer) ? "rope.local" : "rope",
  };
}

function ropesOf(config: ModelConfig, headSize: number): Transformer["ropes"] {
  const { rope_parameters: all, rope_scaling: scaling, rope_theta, rope_local_base_freq } = config;
  const parts = fieldsOf(all);
  const rope = (parameters: unknown, theta: unknown, otherwise: number) =>
    ropeConfig({
      ...config,
      rope_scaling: parameters ?? {},
      rope_theta: theta ?? otherwise,
    }, headSize);
  const whole = { ...fieldsOf(parts.full_attention), ...fieldsOf(scaling) };
  return {
    "rope": rope(whole, rope_theta, 1e6),
    "rope.local": rope(parts.sliding_attention, rope_local_base_freq, 1e4),
  };
}

/** Gemma 3. */
export const gemma3: Architecture = {
  ...decoderRules(readConfig),
  name: "gemma3",
  modelTypes: ["gemma3_text"],
  bodyPath: "model",
  heads: GEMMA_HEADS,
};
