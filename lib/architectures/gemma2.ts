/**
 * Gemma 2 (Gemma Team, 2024, arXiv:2408.00118), every other layer of which sees near tokens only.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";
import { type DecoderKind, decoderRules } from "./gated-decoder.ts";
import { gemma, readGemma } from "./gemma.ts";
import type { Transformer } from "./transformer.ts";

/** What Gemmas after the first do. */
export function readLocalGemma(
  config: ModelConfig,
  of: DecoderKind & { readonly pattern: number },
): Transformer & { isLocal(layer: number): boolean } {
  const { number, size, list } = configReader(config), kinds = list("layer_types");
  const isLocal = (layer: number) =>
    kinds ? kinds[layer] === "sliding_attention" : (layer + 1) % of.pattern !== 0;
  return {
    ...readGemma(config, { ...of, norms: "both" }),
    isLocal,
    scale: () => number("query_pre_attn_scalar", 256) ** -0.5,
    window: (layer) => isLocal(layer) ? size("sliding_window", 4096) : null,
  };
}

/** Gemma 2. */
export const gemma2: Architecture = {
  ...decoderRules((config) => readLocalGemma(config, { pattern: 2 })),
  name: "gemma2",
  modelTypes: ["gemma2"],
  bodyPath: "model",
  heads: gemma.heads,
};
