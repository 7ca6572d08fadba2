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
import type { Site } from "../../model/site.ts";
import { dense, multiply } from "../../model/weight.ts";
import { add, div, mul, sub } from "../../ops/binary.ts";
import { concat } from "../../ops/concat.ts";
import { gather } from "../../ops/gather.ts";
import { matmul } from "../../ops/matmul.ts";
import { sum } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import { stopGradient } from "../../ops/stop-gradient.ts";
import { transpose } from "../../ops/transpose.ts";
import { neg, sqrt } from "../../ops/unary.ts";
import type { Value } from "../../ops/value.ts";
import { parseConfig } from "../config.ts";
import { ATTENTION_TARGETS } from "../default-targets.ts";
import { loraCombine } from "./lora-combine.ts";
import { type LoraConfig, loraSchema, loraShape } from "./lora-config.ts";
import {
  checkLoraCalibration,
  decomposes,
  frozenLora,
  initLora,
  loraFrozenShapes,
  loraLeafShapes,
} from "./lora-init.ts";
import { loraRefit } from "./lora-refit.ts";
import type { ForwardContext, MergeContext, PeftMethod, SiteContext } from "../method.ts";

type Context = SiteContext<LoraConfig>;

/** The method `LORA`. */
export const lora: PeftMethod<LoraConfig> = {
  peftType: "LORA",
  prefix: "lora_",
  parseConfig: (config) => parseConfig(loraSchema, config),
  isScalable: true,
  supportsLoraConversion: true,
  isIdentityAtInit: true,
  siteKinds: ["linear", "conv1d", "embedding"],
  defaultTargets: ATTENTION_TARGETS,
  leafShapes: loraLeafShapes,
  frozenShapes: loraFrozenShapes,
  tiedLeaves: { lora_A: "lora_embedding_B", lora_B: "lora_embedding_A" },
  checkCalibration: checkLoraCalibration,
  init: initLora,
  frozen: frozenLora,
  forward: (context) =>
    context.site.kind === "embedding" ? forwardEmbedding(context) : forwardLinear(context),
  merge,
  keyOf: (leaf) => KEYS[leaf] ?? leaf,
  combine: loraCombine,
  refit: loraRefit,
};

/** Leaves whose key is not their name. */
const KEYS: Readonly<Record<string, string>> = {
  lora_A: "lora_A.weight",
  lora_B: "lora_B.weight",
  lora_bias: "lora_B.bias",
};

function forwardLinear(context: ForwardContext<LoraConfig>): Value {
  const { pass, config, site, x, result } = context;
  const dropped = pass.dropout(x, config.loraDropout);
  if (!config.useDora) return add(result, output(context, { x, dropped }));
  const factor = magnitudeFactor(context);
  if (dropped === x) {
    const bias = site.bias ? pass.parameter(`${site.path}.bias`) : undefined;
    const y = mul(add(bias ? sub(result, bias) : result, output(context, { x, dropped })), factor);
    return bias ? add(y, bias) : y;
  }
  // With dropout the base takes part twice: whole as it is, and scaled by what the factor adds on
  // what dropout left.
  const weight = pass.weight(`${site.path}.weight`);
  const base = multiply(dropped, weight, { transposeB: site.kind === "linear" });
  const y = mul(add(base, output(context, { x: dropped, dropped })), factor);
  if (!decomposes(config, site)) return add(result, sub(y, base));
  const taken = (input: Value) => lowRank(input, { ...initial(context), scale: scaleOf(context) });
  return add(sub(result, taken(x)), sub(y, sub(base, taken(dropped))));
}

function forwardEmbedding(context: ForwardContext<LoraConfig>): Value {
  const { config, leaves, x, result } = context;
  const rows = scaled(gather(transpose(leaves.lora_embedding_A), x), scaleOf(context));
  const y = add(result, matmul(rows, leaves.lora_embedding_B, { transposeB: true }));
  return config.useDora ? mul(y, magnitudeFactor(context)) : y;
}

function merge(
  context: MergeContext<LoraConfig>,
): { readonly weight: Value; readonly bias?: Value } {
  const { config, site, weight, bias, leaves } = context;
  const sum = add(weight, weightChange(context));
  if (config.useDora) {
    const factor = magnitudeFactor(context);
    const merged = mul(sum, perOutput(site, factor));
    return bias ? { weight: merged, bias: mergedBias(context, bias, factor) } : { weight: merged };
  }
  if (!config.loraBias) return bias ? { weight: sum, bias } : { weight: sum };
  if (!bias) {
    throw new UnsupportedError(
      "MERGE_BIAS",
      `The adapter cannot be merged: it has a bias (loraBias) for ${site.path}, which has none to add it to. ` +
        "Keep the adapter unmerged, or train one without loraBias.",
      { path: site.path },
    );
  }
  return { weight: sum, bias: add(bias, scaled(leaves.lora_bias, scaleOf(context))) };
}

/** DoRA scales what adapters before it made of the bias, but for the layer's own. */
function mergedBias({ pass, site }: MergeContext<LoraConfig>, bias: Value, factor: Value): Value {
  const own = pass.parameter(`${site.path}.bias`);
  return bias === own ? bias : add(mul(sub(bias, own), factor), own);
}

/** A factor of which a part is known only when the program runs. */
interface Scale {
  readonly fixed: number;
  readonly asked: Value | 1;
}

function scaleOf({ config, site, multiplier }: Context): Scale {
  return { fixed: loraShape(config, site).scale, asked: multiplier };
}

function scaled(x: Value, { fixed, asked }: Scale): Value {
  const y = fixed === 1 ? x : mul(x, fixed);
  return asked === 1 ? y : mul(y, asked);
}

interface LowRank {
  readonly a: Value;
  readonly b: Value;
  readonly scale: Scale;
}

/** B·A·x, scaled where the numbers are fewest: between the two products. */
function lowRank(x: Value, { a, b, scale }: LowRank): Value {
  return matmul(scaled(matmul(x, a, { transposeB: true }), scale), b, { transposeB: true });
}

function initial({ leaves }: Context): Omit<LowRank, "scale"> {
  return { a: leaves.lora_A_init, b: leaves.lora_B_init };
}

/**
 * A and B, followed by the initial ones where the base is to lack them: B·A − B₀·A₀ = [B, −B₀]·[A;
 * A₀], still two products.
 */
function factors(context: Context): Omit<LowRank, "scale"> {
  const { leaves, config, site } = context;
  if (site.kind === "embedding") {
    return { a: leaves.lora_embedding_A, b: leaves.lora_embedding_B };
  }
  const { lora_A: a, lora_B: b } = leaves;
  if (!decomposes(config, site)) return { a, b };
  const { a: a0, b: b0 } = initial(context);
  return { a: concat([a, a0], { axis: 0 }), b: concat([b, neg(b0)], { axis: 1 }) };
}

/**
 * What the adapter adds to the output of a linear layer. Only the trained part sees what dropout
 * left of the input.
 */
function output(
  context: Context,
  { x, dropped }: { readonly x: Value; readonly dropped: Value },
): Value {
  const { leaves, config, site } = context;
  const scale = scaleOf(context);
  let y: Value;
  if (x === dropped || !decomposes(config, site)) {
    y = lowRank(dropped, { ...factors(context), scale });
  } else {
    const inner = concat([
      matmul(dropped, leaves.lora_A, { transposeB: true }),
      matmul(x, initial(context).a, { transposeB: true }),
    ], { axis: -1 });
    y = matmul(scaled(inner, scale), factors(context).b, { transposeB: true });
  }
  return config.loraBias ? add(y, scaled(leaves.lora_bias, scale)) : y;
}

/** What the adapter adds to the weight, as the layer stores it. */
function weightChange(context: Context): Value {
  const { a, b } = factors(context);
  const small = scaled(b, scaleOf(context));
  return context.site.kind === "linear"
    ? matmul(small, a)
    : matmul(a, small, { transposeA: true, transposeB: true });
}

/**
 * DoRA's factor of each output feature: the learned magnitude over the length of the adapted
 * weight, whose gradient is not followed.
 */
function magnitudeFactor(context: Context): Value {
  const { pass, site, leaves } = context;
  // The base's own weight, also where other adapters have been merged before this one.
  const weight = add(dense(pass.weight(`${site.path}.weight`)), weightChange(context));
  const squares = sum(mul(weight, weight), { axes: [site.kind === "linear" ? 1 : 0] });
  return div(leaves.lora_magnitude_vector, stopGradient(sqrt(squares)));
}

/** One number per output feature, shaped to multiply the weight as the layer stores it. */
function perOutput(site: Site, x: Value): Value {
  return site.kind === "linear" ? reshape(x, [-1, 1]) : x;
}
