/**
 * Plain LoRA in a pass: what its leaves add to a weight and to an output.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { inputRows, outputOf } from "../../model/site-product.ts";
import { isOutIn } from "../../model/site.ts";
import type { LowRank } from "../../model/weight.ts";
import { mul, neg } from "../../ops/elementwise.ts";
import { concat } from "../../ops/concat.ts";
import { constant } from "../../ops/constant.ts";
import { gather } from "../../ops/gather.ts";
import { matmul } from "../../ops/matmul.ts";
import { reshape } from "../../ops/reshape.ts";
import { transpose } from "../../ops/transpose.ts";
import type { Value } from "../../ops/value.ts";
import { type LoraConfig, loraShape } from "./lora-config.ts";
import type { SiteTrace } from "../method.ts";

/** A site with a LoRA. */
export type LoraTrace = SiteTrace<LoraConfig>;

/** A value times a number. */
export function times(x: Value, factor: number): Value {
  return factor === 1 ? x : mul(x, factor);
}

/** The LoRA's own factor at a site. */
export function scaleOf({ config, site }: LoraTrace): number {
  return loraShape(config, site).scale;
}

interface Factors {
  readonly a: Value;
  readonly b: Value;
}

/** B·A·x, scaled where the numbers are fewest: between the two products. */
export function lowRank(x: Value, { a, b }: Factors, scale: number): Value {
  return matmul(times(matmul(x, a, { transposeB: true }), scale), b, { transposeB: true });
}

/** The factors that the base is to lack. */
export function initial({ leaves }: LoraTrace): Factors | undefined {
  const { lora_A_init: a, lora_B_init: b } = leaves;
  return a && { a, b };
}

/**
 * A and B, followed by the initial ones where the base is to lack them: B·A − B₀·A₀ = [B, −B₀]·[A;
 * A₀], still two products.
 */
function factors(trace: LoraTrace): Factors {
  const { leaves, site } = trace;
  if (site.kind === "embedding") {
    return { a: leaves.lora_embedding_A, b: leaves.lora_embedding_B };
  }
  const { lora_A: a, lora_B: b } = leaves;
  if (site.conv) return { a: reshape(a, [a.shape[0], -1]), b: reshape(b, [b.shape[0], -1]) };
  const taken = initial(trace);
  if (!taken) return { a, b };
  return { a: concat([a, taken.a], { axis: 0 }), b: concat([b, neg(taken.b)], { axis: 1 }) };
}

/** Of a parameter, B [out, r·E] and A [r·E, in] hold the factors of all its E matrices. */
export function stackedFactors(trace: LoraTrace): LowRank {
  const { leaves: { lora_A: a, lora_B: b }, site: { count, inFeatures, outFeatures } } = trace;
  const left = times(b, scaleOf(trace));
  if (count === undefined) return { left, right: a };
  return {
    left: transpose(reshape(left, [outFeatures, -1, count]), [2, 0, 1]),
    right: reshape(a, [count, -1, inFeatures]),
  };
}

/** What the adapter adds to the weight, as the layer stores it. */
export function weightChange(trace: LoraTrace): Value {
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
export function mergeableChange(trace: LoraTrace): Value {
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
export function added(trace: LoraTrace, x: Value, dropped: Value): Value {
  const { leaves, site } = trace, taken = initial(trace);
  const scale = scaleOf(trace);
  if (x === dropped || !taken) {
    const { a, b } = factors(trace);
    return outputOf(
      site,
      lowRank(inputRows(site, dropped), { a, b: byGroup(b, site.conv?.groups) }, scale),
    );
  }
  const inner = concat([
    matmul(dropped, leaves.lora_A, { transposeB: true }),
    matmul(x, taken.a, { transposeB: true }),
  ], { axis: -1 });
  return matmul(times(inner, scale), factors(trace).b, { transposeB: true });
}

/**
 * A matrix of blocks [rows, columns/groups], one below the other, with each in columns of its own
 * and zeros beside it: [rows, columns].
 */
export function byGroup(blocks: Value, groups = 1): Value {
  const [rows, share] = blocks.shape;
  if (groups === 1) return blocks;
  const diagonal = Array.from({ length: groups ** 2 }, (_, i) => i % (groups + 1) ? 0 : 1);
  const own = constant(blocks.graph, diagonal, { shape: [groups, 1, groups, 1] });
  return reshape(mul(reshape(blocks, [groups, -1, 1, share]), own), [rows, groups * share]);
}

/** What the adapter adds to the rows that an embedding gives. */
export function lookedUp(trace: LoraTrace, ids: Value): Value {
  const { leaves } = trace;
  const rows = times(gather(transpose(leaves.lora_embedding_A), ids), scaleOf(trace));
  return matmul(rows, leaves.lora_embedding_B, { transposeB: true });
}
