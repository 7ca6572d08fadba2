/**
 * mBART (Liu et al., 2020, arXiv:2001.08210): BART with norms before what they normalise.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { bartClasses, bartRules } from "./bart.ts";
import { answerHead } from "./heads.ts";
import type { LayerNames } from "./transformer-layer.ts";

/** The same norms before attention and feed forward, not behind. */
export function normsBefore(names: LayerNames): LayerNames {
  const moved = Object.entries(names).map((
    [role, name],
  ) => [role.replace("after", "before"), name]);
  return Object.fromEntries(moved);
}

const rules = bartRules((c) => ({
  names: { ...c.names, last: "layer_norm" },
  layer: (i) => normsBefore(c.layer(i)),
}));

/** mBART. */
export const mbart: Architecture = {
  ...rules,
  name: "mbart",
  modelTypes: ["mbart"],
  heads: { ...rules.heads, SEQ_CLS: bartClasses, QUESTION_ANS: answerHead },
  // The language of what is written, which ends it.
  decoderStart: "last token",
};
