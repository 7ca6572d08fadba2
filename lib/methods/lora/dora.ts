/**
 * DoRA: a learned magnitude for each output feature (Liu et al., 2024, arXiv:2402.09353).
 *
 * With ‖·‖ for the length of what leads to an output feature, and a weight that is taken as a
 * constant under it, y = m / ‖W + scale·B·A‖ ⊙ (W + scale·B·A)·x.
 *
 * @module
 */
import { perFeature, perOutput, product } from "../../model/site-product.ts";
import { isOutIn } from "../../model/site.ts";
import { dense } from "../../model/weight.ts";
import { add, div, mul, sqrt, sub } from "../../ops/elementwise.ts";
import { sum } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import { stopGradient } from "../../ops/stop-gradient.ts";
import type { Value } from "../../ops/value.ts";
import { scaled, type SiteCall, type SiteValues } from "../site-rule.ts";
import {
  added,
  initial,
  lookedUp,
  type LoraTrace,
  lowRank,
  mergeableChange,
  scaleOf,
  weightChange,
} from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";

/** `useDora`. */
export const dora: LoraVariant = {
  field: "useDora",
  kinds: ["linear", "conv1d", "conv", "embedding"],
  rule: (plain, kind) => ({
    ...plain,
    forward: kind === "embedding" ? lookedUpDora : forwardDora,
    weight: mergeDora,
  }),
};

function lookedUpDora(trace: LoraTrace, { x, result }: SiteCall): Value {
  return mul(add(result, scaled(lookedUp(trace, x), trace.multiplier)), magnitudeFactor(trace));
}

function forwardDora(trace: LoraTrace, { x, result }: SiteCall): Value {
  const { pass, config, site, multiplier } = trace;
  const dropped = pass.dropout(x, config.loraDropout);
  const factor = perFeature(site, magnitudeFactor(trace));
  const change = (input: Value) => scaled(added(trace, input, dropped), multiplier);
  if (dropped === x) {
    const bias = site.bias && perFeature(site, pass.parameter(`${site.path}.bias`));
    const y = mul(add(bias ? sub(result, bias) : result, change(x)), factor);
    return bias ? add(y, bias) : y;
  }
  // With dropout the base takes part twice: whole as it is, and scaled by what the factor adds on
  // what dropout left.
  const base = product(site, dropped, pass.weight(`${site.path}.weight`));
  const y = mul(add(base, change(dropped)), factor);
  const part = initial(trace);
  if (!part) return add(result, sub(y, base));
  const taken = (input: Value) => scaled(lowRank(input, part, scaleOf(trace)), multiplier);
  return add(sub(result, taken(x)), sub(y, sub(base, taken(dropped))));
}

function mergeDora(trace: LoraTrace, { weight, bias }: SiteValues): SiteValues {
  const { pass, site, multiplier } = trace;
  const factor = magnitudeFactor(trace);
  const sum = add(weight, scaled(mergeableChange(trace), multiplier));
  const merged = mul(sum, perOutput(site, factor));
  if (!bias) return { weight: merged };
  // What adapters before it made of the bias is scaled, but not the layer's own.
  const own = pass.parameter(`${site.path}.bias`);
  return {
    weight: merged,
    bias: bias === own ? bias : add(mul(sub(bias, own), factor), own),
  };
}

/**
 * DoRA's factor of each output feature: the learned magnitude over the length of the adapted
 * weight, whose gradient is not followed.
 */
function magnitudeFactor(trace: LoraTrace): Value {
  const { pass, site, leaves, multiplier } = trace;
  // The base's own weight, also where other adapters have been merged before this one.
  const own = dense(pass.weight(`${site.path}.weight`));
  const weight = add(own, scaled(weightChange(trace), multiplier));
  const axes = weight.shape.map((_, i) => i).filter((i) => (i === 0) !== isOutIn(site));
  const lengths = sqrt(sum(mul(weight, weight), { axes }));
  return div(reshape(leaves.lora_magnitude_vector, [-1]), stopGradient(lengths));
}
