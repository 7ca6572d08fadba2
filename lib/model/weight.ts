/**
 * Weights inside a program: plain or block-quantized, behind one set of functions.
 *
 * @module
 */
import { cast } from "../ops/cast.ts";
import { dequantize } from "../ops/dequantize.ts";
import { gather } from "../ops/gather.ts";
import { gatherQuantized } from "../ops/gather-quantized.ts";
import { matmul } from "../ops/matmul.ts";
import { matmulQuantized } from "../ops/matmul-quantized.ts";
import type { QuantizedValue } from "../ops/quantized-value.ts";
import type { Value } from "../ops/value.ts";

/** A weight as a program sees it: a value of any float type, or a quantized matrix. */
export type Weight =
  | { readonly plain: Value; readonly quantized?: undefined }
  | { readonly plain?: undefined; readonly quantized: QuantizedValue };

/** x [..., K] times the weight, stored [N, K] with `transposeB` and [K, N] without. */
export function multiply(
  x: Value,
  weight: Weight,
  options: { readonly transposeB: boolean },
): Value {
  return weight.quantized
    ? matmulQuantized(x, weight.quantized, options)
    : matmul(x, weight.plain, options);
}

/** Rows of the weight at `ids`, in f32. */
export function lookup(weight: Weight, ids: Value): Value {
  return weight.quantized
    ? gatherQuantized(weight.quantized, ids)
    : cast(gather(weight.plain, ids), "f32");
}

/** The whole weight in f32, as stored. */
export function dense(weight: Weight): Value {
  return weight.quantized ? dequantize(weight.quantized) : cast(weight.plain, "f32");
}
