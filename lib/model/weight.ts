/**
 * Weights inside a program: plain or block-quantized, behind one set of functions.
 *
 * @module
 */
import { cast } from "../ops/cast.ts";
import { add } from "../ops/elementwise.ts";
import { dequantize } from "../ops/dequantize.ts";
import { gather } from "../ops/gather.ts";
import { gatherQuantized } from "../ops/gather-quantized.ts";
import { matmul } from "../ops/matmul.ts";
import { matmulQuantized } from "../ops/matmul-quantized.ts";
import type { QuantizedValue } from "../ops/quantized-value.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";

/** A product that is added to a weight [..., N, K] as it is stored. */
export interface LowRank {
  /** [..., N, r] */
  readonly left: Value;
  /** [..., r, K] */
  readonly right: Value;
}

/**
 * A weight as a program sees it: a value of any float type, or a quantized matrix; and what adapters
 * add to it. A plain one may be several matrices [..., N, K].
 */
export type Weight =
  & (
    | { readonly plain: Value; readonly quantized?: undefined }
    | { readonly plain?: undefined; readonly quantized: QuantizedValue }
  )
  & { readonly added?: readonly LowRank[] };

/** x [..., K] times the weight, stored [N, K] with `transposeB` and [K, N] without. */
export function multiply(
  x: Value,
  weight: Weight,
  options: { readonly transposeB: boolean },
): Value {
  const own = weight.quantized
    ? matmulQuantized(x, weight.quantized, options)
    : matmul(x, weight.plain, options);
  return withAdded(own, weight, ({ left, right }) => {
    const [first, last] = options.transposeB ? [right, left] : [left, right];
    return matmul(matmul(x, first, options), last, options);
  });
}

function withAdded(own: Value, { added = [] }: Weight, term: (of: LowRank) => Value): Value {
  return added.reduce((sum, part) => add(sum, term(part)), own);
}

/** Rows of the weight at `ids`, in f32. */
export function lookup(weight: Weight, ids: Value): Value {
  const own = weight.quantized
    ? gatherQuantized(weight.quantized, ids)
    : cast(gather(weight.plain, ids), "f32");
  return withAdded(own, weight, ({ left, right }) => matmul(gather(left, ids), right));
}

/** Of a plain weight [E, N, K] the matrices at `ids` [S]: [S, N, K]. */
export function pick({ plain, added }: Weight, ids: Value): Weight {
  const rows = (x: Value) => {
    const [count, ...rest] = x.shape;
    return reshape(gather(reshape(x, [count, -1]), ids), [ids.shape[0], ...rest]);
  };
  return {
    plain: rows(plain!),
    added: added?.map(({ left, right }) => ({ left: rows(left), right: rows(right) })),
  };
}

/** The sum that a product is. */
export function product({ left, right }: LowRank): Value {
  return matmul(left, right);
}

/** The whole weight in f32, as stored. */
export function dense(weight: Weight): Value {
  const own = weight.quantized ? dequantize(weight.quantized) : cast(weight.plain, "f32");
  return withAdded(own, weight, product);
}
