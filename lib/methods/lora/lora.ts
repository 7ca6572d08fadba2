/**
 * LoRA: low-rank adaptation (Hu et al., 2021, arXiv:2106.09685), with rsLoRA, DoRA, PiSSA, OLoRA
 * and CorDA.
 *
 * A linear layer with weight W becomes y = W·x + scale·B·A·x. PiSSA, OLoRA and CorDA take their
 * first A and B out of the weight; as the base is never changed here, the forward pass subtracts
 * them: y = W·x + scale·(B·A − B₀·A₀)·x.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { inputRows, outputOf, perFeature, perOutput, product } from "../../model/site-product.ts";
import { isOutIn, type Site } from "../../model/site.ts";
import { dense, type LowRank, product as wholeProduct } from "../../model/weight.ts";
import { add, div, mul, neg, sqrt, sub } from "../../ops/elementwise.ts";
import { concat } from "../../ops/concat.ts";
import { constant } from "../../ops/constant.ts";
import { gather } from "../../ops/gather.ts";
import { matmul } from "../../ops/matmul.ts";
import { sum } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import { stopGradient } from "../../ops/stop-gradient.ts";
import { transpose } from "../../ops/transpose.ts";
import type { Value } from "../../ops/value.ts";
import { loraCombine } from "./lora-combine.ts";
import { type LoraConfig, loraSchema, loraShape } from "./lora-config.ts";
import { checkLoraCalibration, decomposes, loraLeaves } from "./lora-init.ts";
import { loraRefit } from "./lora-refit.ts";
import type { PeftMethod, SiteTrace } from "../method.ts";
import { type DeltaRule, scaled, type SiteCall, type SiteValues } from "../site-rule.ts";

type Trace = SiteTrace<LoraConfig>;

/** The method `LORA`. */
export const lora: PeftMethod<LoraConfig> = {
  name: "lora",
  config: { ...loraSchema, checkCalibration: checkLoraCalibration },
  leaves: { site: loraLeaves },
  sites(config) {
    const linear: DeltaRule<LoraConfig> = {
      delta: mergeableChange,
      forward: config.useDora ? forwardDora : forwardPlain,
      ...(config.useDora ? { weight: mergeDora } : config.loraBias ? { weight: mergeBias } : {}),
    };
    const embedding: DeltaRule<LoraConfig> = {
      delta: weightChange,
      forward: (trace, { x, result }) => add(result, scaled(lookedUp(trace, x), trace.multiplier)),
      ...(config.useDora ? { forward: lookedUpDora, weight: mergeDora } : {}),
    };
    const parameter: DeltaRule<LoraConfig> = {
      delta: (trace) => wholeProduct(stackedFactors(trace)),
      factors: stackedFactors,
    };
    return { linear, conv1d: linear, conv: linear, embedding, parameter };
  },
  combine: { ...loraCombine, refit: loraRefit },
};

function times(x: Value, factor: number): Value {
  return factor === 1 ? x : mul(x, factor);
}

function scaleOf({ config, site }: Trace): number {
  return loraShape(config, site).scale;
}

interface Factors {
  readonly a: Value;
  readonly b: Value;
}

/** B·A·x, scaled where the numbers are fewest: between the two products. */
function lowRank(x: Value, { a, b }: Factors, scale: number): Value {
  return matmul(times(matmul(x, a, { transposeB: true }), scale), b, { transposeB: true });
}

function initial({ leaves }: Trace): Factors {
  return { a: leaves.lora_A_init, b: leaves.lora_B_init };
}

/**
 * A and B, followed by the initial ones where the base is to lack them: B·A − B₀·A₀ = [B, −B₀]·[A;
 * A₀], still two products.
 */
function factors(trace: Trace): Factors {
  const { leaves, config, site } = trace;
  if (site.kind === "embedding") {
    return { a: leaves.lora_embedding_A, b: leaves.lora_embedding_B };
  }
  const { lora_A: a, lora_B: b } = leaves;
  if (site.conv) return { a: reshape(a, [a.shape[0], -1]), b: reshape(b, [b.shape[0], -1]) };
  if (!decomposes(config, site)) return { a, b };
  const { a: a0, b: b0 } = initial(trace);
  return { a: concat([a, a0], { axis: 0 }), b: concat([b, neg(b0)], { axis: 1 }) };
}

/** Of a parameter, B [out, r·E] and A [r·E, in] hold the factors of all its E matrices. */
function stackedFactors(trace: Trace): LowRank {
  const { leaves: { lora_A: a, lora_B: b }, site: { count, inFeatures, outFeatures } } = trace;
  const left = times(b, scaleOf(trace));
  if (count === undefined) return { left, right: a };
  return {
    left: transpose(reshape(left, [outFeatures, -1, count]), [2, 0, 1]),
    right: reshape(a, [count, -1, inFeatures]),
  };
}

/** What the adapter adds to the weight, as the layer stores it. */
function weightChange(trace: Trace): Value {
  const { a, b } = factors(trace), { site } = trace;
  const small = times(b, scaleOf(trace));
  if (!site.conv) {
    return isOutIn(site)
      ? matmul(small, a)
      : matmul(a, small, { transposeA: true, transposeB: true });
  }
  // With groups it is no change of the weight, but what PEFT measures the length of DoRA by.
  const change = matmul(reshape(small, [-1, a.shape[0]]), a);
  return reshape(change, [site.outFeatures, -1, ...site.conv.kernel]);
}

/** The same where it is merged. */
function mergeableChange(trace: Trace): Value {
  const { site } = trace;
  if (site.conv && site.conv.groups > 1) {
    throw new UnsupportedError(
      "MERGE_GROUPS",
      `The adapter cannot be merged: ${site.path} is a convolution with ${site.conv.groups} groups, ` +
        "and a LoRA mixes the channels of all groups. Keep the adapter unmerged.",
      { path: site.path },
    );
  }
  return weightChange(trace);
}

/**
 * What the adapter adds to the output of a linear layer. Only the trained part sees what dropout
 * left of the input.
 */
function added(trace: Trace, x: Value, dropped: Value): Value {
  const { leaves, config, site } = trace;
  const scale = scaleOf(trace);
  let y: Value;
  if (x === dropped || !decomposes(config, site)) {
    const { a, b } = factors(trace);
    y = lowRank(inputRows(site, dropped), { a, b: byGroup(b, site) }, scale);
  } else {
    const inner = concat([
      matmul(dropped, leaves.lora_A, { transposeB: true }),
      matmul(x, initial(trace).a, { transposeB: true }),
    ], { axis: -1 });
    y = matmul(times(inner, scale), factors(trace).b, { transposeB: true });
  }
  return outputOf(site, config.loraBias ? add(y, times(leaves.lora_bias, scale)) : y);
}

/** B [out, r] where each group of a convolution has its share of the rank: zero for the others. */
function byGroup(b: Value, { conv }: Site): Value {
  const { groups = 1 } = conv ?? {}, [out, share] = b.shape;
  if (groups === 1) return b;
  const diagonal = Array.from({ length: groups ** 2 }, (_, i) => i % (groups + 1) ? 0 : 1);
  const own = constant(b.graph, diagonal, { shape: [groups, 1, groups, 1] });
  return reshape(mul(reshape(b, [groups, -1, 1, share]), own), [out, groups * share]);
}

/** What the adapter adds to the rows that an embedding gives. */
function lookedUp(trace: Trace, ids: Value): Value {
  const { leaves } = trace;
  const rows = times(gather(transpose(leaves.lora_embedding_A), ids), scaleOf(trace));
  return matmul(rows, leaves.lora_embedding_B, { transposeB: true });
}

function lookedUpDora(trace: Trace, { x, result }: SiteCall): Value {
  return mul(add(result, scaled(lookedUp(trace, x), trace.multiplier)), magnitudeFactor(trace));
}

/** A low rank is never dearer than the weight that it changes, and groups have none to change. */
function forwardPlain(trace: Trace, { x, result }: SiteCall): Value {
  const dropped = trace.pass.dropout(x, trace.config.loraDropout);
  return add(result, scaled(added(trace, x, dropped), trace.multiplier));
}

function forwardDora(trace: Trace, { x, result }: SiteCall): Value {
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
  if (!decomposes(config, site)) return add(result, sub(y, base));
  const taken = (input: Value) =>
    scaled(lowRank(input, initial(trace), scaleOf(trace)), multiplier);
  return add(sub(result, taken(x)), sub(y, sub(base, taken(dropped))));
}

function mergeBias(trace: Trace, { weight, bias }: SiteValues): SiteValues {
  const { site, leaves, multiplier } = trace;
  if (!bias) {
    throw new UnsupportedError(
      "MERGE_BIAS",
      `The adapter cannot be merged: it has a bias (loraBias) for ${site.path}, which has none to add it to. ` +
        "Keep the adapter unmerged, or train one without loraBias.",
      { path: site.path },
    );
  }
  return {
    weight: add(weight, scaled(mergeableChange(trace), multiplier)),
    bias: add(bias, scaled(times(leaves.lora_bias, scaleOf(trace)), multiplier)),
  };
}

function mergeDora(trace: Trace, { weight, bias }: SiteValues): SiteValues {
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
function magnitudeFactor(trace: Trace): Value {
  const { pass, site, leaves, multiplier } = trace;
  // The base's own weight, also where other adapters have been merged before this one.
  const own = dense(pass.weight(`${site.path}.weight`));
  const weight = add(own, scaled(weightChange(trace), multiplier));
  const axes = weight.shape.map((_, i) => i).filter((i) => (i === 0) !== isOutIn(site));
  const lengths = sqrt(sum(mul(weight, weight), { axes }));
  return div(reshape(leaves.lora_magnitude_vector, [-1]), stopGradient(lengths));
}
