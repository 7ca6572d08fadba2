/**
 * What layers that multiply with a weight have in common: a convolution is a linear layer on the
 * patches of its input.
 *
 * @module
 */
import { matmul } from "../ops/matmul.ts";
import { patches } from "../ops/patches.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { isOutIn, type Site } from "./site.ts";
import { dense, multiply, type Weight } from "./weight.ts";

/** The rows that a site multiplies: its input, or of a convolution the patches [B, ...P, C · kernel]. */
export function inputRows({ conv }: Site, x: Value): Value {
  return conv ? patches(x, conv) : x;
}

/** Products of rows as the site gives them: features last, but for the channels of a convolution. */
export function outputOf({ conv }: Site, rows: Value): Value {
  const last = rows.shape.length - 1;
  return conv ? transpose(rows, [0, last, ...conv.kernel.map((_, i) => i + 1)]) : rows;
}

/** What goes into a site times its weight, or another of the same shape, without a bias. */
export function product(site: Site, x: Value, weight: Weight): Value {
  const { conv, outFeatures } = site;
  if (!conv) return multiply(x, weight, { transposeB: isOutIn(site) });
  const rows = inputRows(site, x), matrix = weight.plain ?? dense(weight), { groups } = conv;
  if (groups === 1) {
    return outputOf(site, matmul(rows, reshape(matrix, [outFeatures, -1]), { transposeB: true }));
  }
  const apart = transpose(reshape(rows, [-1, groups, rows.shape.at(-1)! / groups]), [1, 0, 2]);
  const kernels = reshape(matrix, [groups, outFeatures / groups, -1]);
  const y = transpose(matmul(apart, kernels, { transposeB: true }), [1, 0, 2]);
  return outputOf(site, reshape(y, [...rows.shape.slice(0, -1), outFeatures]));
}

/** One number for each feature, shaped to be added to what a site gives, or to multiply it. */
export function perFeature({ conv }: Site, x: Value): Value {
  return conv ? reshape(x, [-1, ...conv.kernel.map(() => 1)]) : x;
}

/** One number for each output, shaped to multiply the weight as the layer stores it. */
export function perOutput(site: Site, x: Value): Value {
  return isOutIn(site) ? reshape(x, [-1, 1, ...site.conv?.kernel.map(() => 1) ?? []]) : x;
}
