/**
 * Phi 3 (Abdin et al., 2024, arXiv:2404.14219), 3.5 and 4, whose projections are fused.
 *
 * @module
 */
import type { Architecture, ModelConfig } from "../model/architecture.ts";
import { configReader, fieldsOf } from "./config-reader.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { languageHead, lastTokenHead, tokenScoreHead } from "./heads.ts";
import type { Transformer } from "./transformer.ts";

function readConfig(given: ModelConfig): Transformer {
  const config = { rms_norm_eps: 1e-5, ...given, rope_scaling: scaling(given) };
  const { rate, optionalSize } = configReader(config), c = readDecoder(config, { fused: true });
  const window = optionalSize("sliding_window");
  return {
    ...c,
    dropout: { ...c.dropout, residual: rate("resid_pdrop") },
    window: () => window,
  };
}

/** The kind of scaling by its name of today; older configs call it otherwise. */
function scaling({ rope_scaling: given }: ModelConfig): unknown {
  const { rope_type, type: older } = fieldsOf(given), type = rope_type ?? older;
  return type === "su" || type === "yarn" ? { ...given as object, rope_type: "longrope" } : given;
}

/** Phi 3. */
export const phi3: Architecture = {
  ...decoderRules(readConfig),
  name: "phi3",
  modelTypes: ["phi3"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({ tied: false }),
    SEQ_CLS: lastTokenHead,
    TOKEN_CLS: tokenScoreHead,
    FEATURE_EXTRACTION: null,
  },
};
