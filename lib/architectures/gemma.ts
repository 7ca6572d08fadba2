/**
 * Gemma (Gemma Team, 2024, arXiv:2403.08295), and what all Gemmas have in common.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { configReader } from "./config-reader.ts";
import { type DecoderKind, decoderRules, readDecoder } from "./gated-decoder.ts";
import { languageHead, lastTokenHead, tokenScoreHead } from "./heads.ts";
import type { Transformer } from "./transformer.ts";

/** What configs of all Gemmas say. */
export function readGemma(config: ModelConfig, kind: DecoderKind = {}): Transformer {
  const { choice, refuse } = configReader(config), first = config.model_type === "gemma";
  refuse("use_bidirectional_attention", true, "reads in both directions");
  const c = readDecoder({ head_dim: 256, ...config, hidden_act: null }, kind);
  // What the first releases call gelu is its approximation.
  const acts = first ? { ...ACTIVATIONS, gelu: ACTIVATIONS.gelu_new } : ACTIVATIONS;
  const activation = first ? "hidden_act" : "hidden_activation";
  return {
    ...c,
    norm: { ...c.norm, offset: 1 },
    activation: choice(activation, "gelu_pytorch_tanh", acts),
    embeddingScale: Math.fround(Math.sqrt(c.hidden)),
    cap: gemmaCap(config, "attn_logit_softcapping", 50),
  };
}

/** A cap, which only Gemma 2 has where its config does not say. */
function gemmaCap(config: ModelConfig, name: string, second: number): number | null {
  const { [name]: given = config.model_type === "gemma2" ? second : null } = config;
  return given === null ? null : configReader({ ...config, [name]: given }).number(name);
}

/** The heads of all Gemmas. */
export const GEMMA_HEADS: Architecture["heads"] = {
  CAUSAL_LM: languageHead({
    tied: true,
    cap: (config) => gemmaCap(config, "final_logit_softcapping", 30),
  }),
  SEQ_CLS: lastTokenHead,
  FEATURE_EXTRACTION: null,
};

/** Gemma. */
export const gemma: Architecture = {
  ...decoderRules((config) => readGemma(config)),
  name: "gemma",
  modelTypes: ["gemma"],
  bodyPath: "model",
  heads: { ...GEMMA_HEADS, TOKEN_CLS: tokenScoreHead },
};
