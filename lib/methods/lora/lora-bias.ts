/**
 * `loraBias`: a bias of the factor B, which is scaled as B is.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { perFeature } from "../../model/site-product.ts";
import { add } from "../../ops/elementwise.ts";
import type { Value } from "../../ops/value.ts";
import { scaled, type SiteValues } from "../site-rule.ts";
import { type LoraTrace, scaleOf, times } from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";

/** `loraBias`. */
export const loraBias: LoraVariant = {
  field: "loraBias",
  // Embeddings and parameters are refused by name.
  rule: (plain, kind) =>
    kind === "embedding" || kind === "parameter" ? plain : {
      ...plain,
      apply: (trace, x) => add(plain.apply!(trace, x), perFeature(trace.site, biasOf(trace))),
      weight: (trace, values) => mergeBias(trace, values, plain.delta(trace)),
    },
};

function biasOf(trace: LoraTrace): Value {
  return times(trace.leaves.lora_bias, scaleOf(trace));
}

function mergeBias(
  trace: LoraTrace,
  { weight, bias }: SiteValues,
  change: Value,
): SiteValues {
  const { site, multiplier } = trace;
  if (!bias) {
    throw new UnsupportedError(
      "MERGE_BIAS",
      `The adapter cannot be merged: it has a bias (loraBias) for ${site.path}, which has none to add it to. ` +
        "Keep the adapter unmerged, or train one without loraBias.",
      { path: site.path },
    );
  }
  return {
    weight: add(weight, scaled(change, multiplier)),
    bias: add(bias, scaled(biasOf(trace), multiplier)),
  };
}
