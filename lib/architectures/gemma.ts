/**
 * Gemma (Gemma Team, 2024, arXiv:2403.08295), Gemma 2 (arXiv:2408.00118) and the text models of
 * Gemma 3 (2025, arXiv:2503.19786).
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { ACTIVATIONS } from "./activations.ts";
import { configReader, fieldsOf } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { languageHead, lastTokenHead, tokenScoreHead } from "./heads.ts";
import type { Transformer } from "./transformer.ts";
import { ropeConfig } from "./rope-config.ts";

function readConfig(given: ModelConfig): Transformer {
  const first = given.model_type === "gemma", third = given.model_type === "gemma3_text";
  const { rope_parameters: _, ...plain } = given;
  const config: ModelConfig = {
    head_dim: 256,
    sliding_window: first ? null : 4096,
    ...(third ? plain : given),
  };
  const { number, boolean, choice, list } = configReader(config);
  if (boolean("use_bidirectional_attention", false)) {
    throw new UnsupportedError(
      "GEMMA_BIDIRECTIONAL",
      `A ${config.model_type} model with use_bidirectional_attention true reads in both directions, which is not supported. Set it to false.`,
    );
  }
  const activation = first ? "hidden_act" : "hidden_activation";
  const c = readDecoder({ ...config, hidden_act: null }, {
    norms: first ? "before" : "both",
    headNorms: third,
  });
  // What the first releases call gelu is its approximation.
  const acts = first ? { ...ACTIVATIONS, gelu: ACTIVATIONS.gelu_new } : ACTIVATIONS;
  const kinds = list("layer_types"), pattern = third ? number("sliding_window_pattern", 6) : 2;
  const isLocal = (layer: number) =>
    !first && (kinds ? kinds[layer] === "sliding_attention" : (layer + 1) % pattern !== 0);
  return {
    ...c,
    norm: { ...c.norm, offset: 1 },
    activation: choice(activation, "gelu_pytorch_tanh", acts),
    embeddingScale: Math.fround(Math.sqrt(c.hidden)),
    scale: () => first ? undefined : number("query_pre_attn_scalar", 256) ** -0.5,
    cap: cap(config, "attn_logit_softcapping", 50),
    window: (layer) => isLocal(layer) ? Number(config.sliding_window) : null,
    ...(third && {
      ropes: thirdRopes(given, c.headSize),
      rope: (layer: number) => isLocal(layer) ? "rope.local" : "rope",
    }),
  };
}

/** Gemma 3 rotates by other angles where it sees near tokens only. */
function thirdRopes(config: ModelConfig, headSize: number): Transformer["ropes"] {
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

/** A cap, which only Gemma 2 has where its config does not say. */
function cap(config: ModelConfig, name: string, second: number): number | null {
  const { [name]: given = config.model_type === "gemma2" ? second : null } = config;
  return given === null ? null : configReader({ ...config, [name]: given }).number(name);
}

/** Gemma 1, 2 and 3. */
export const gemma: Architecture = {
  ...decoderRules(readConfig),
  name: "gemma",
  modelTypes: ["gemma", "gemma2", "gemma3_text"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({
      tied: true,
      cap: (config) => cap(config, "final_logit_softcapping", 30),
    }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenScoreHead,
    FEATURE_EXTRACTION: null,
  },
};
