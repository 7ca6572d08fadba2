/**
 * OLMo 2 (OLMo Team, 2025, arXiv:2501.00656), whose norms stand behind what they normalise.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { decoderRules, readDecoder } from "./gated-decoder.ts";
import { languageHead, lastTokenHead } from "./heads.ts";

/** OLMo 2. */
export const olmo2: Architecture = {
  ...decoderRules((config) => ({
    ...readDecoder({ rms_norm_eps: 1e-5, ...config }, { norms: "after", headNorms: true }),
    normsAllHeads: true,
  })),
  name: "olmo2",
  modelTypes: ["olmo2"],
  bodyPath: "model",
  heads: {
    CAUSAL_LM: languageHead({ tied: false }),
    SEQ_CLS: lastTokenHead,
    FEATURE_EXTRACTION: null,
  },
};
