/**
 * Functions made of primitives that architectures and methods share.
 *
 * @module
 */
import { cast } from "./cast.ts";
import {
  add,
  and,
  div,
  greater,
  less,
  log,
  max,
  mul,
  normalCdf,
  not,
  or,
  sigmoid,
  sub,
  tanh,
} from "./elementwise.ts";
import { iota } from "./iota.ts";
import { sum } from "./reduce.ts";
import { reshape } from "./reshape.ts";
import type { Value } from "./value.ts";

/** x · sigmoid(x) */
export function silu(x: Value): Value {
  return mul(x, sigmoid(x));
}

/** The exact Gaussian error linear unit (Hendrycks and Gimpel, 2016, arXiv:1606.08415). */
export function gelu(x: Value): Value {
  return mul(x, normalCdf(x));
}

/** Its tanh approximation, `gelu_new` of GPT-2. */
export function geluTanh(x: Value): Value {
  const inner = mul(add(x, mul(mul(mul(x, x), x), 0.044715)), Math.sqrt(2 / Math.PI));
  return mul(mul(x, 0.5), add(tanh(inner), 1));
}

/** max(x, 0) */
export function relu(x: Value): Value {
  return max(x, 0);
}

/** cap · tanh(x / cap), which is nearly x as long as that is far below `cap`. */
export function softCap(x: Value, cap: number): Value {
  return mul(tanh(mul(x, 1 / cap)), cap);
}

/** From how much above an argument on the series of the gamma function is exact enough. */
const SHIFT = 8;

/** ln Γ(x) of x > 0, by Stirling's series at x + 8. */
export function logGamma(x: Value): Value {
  let product = x;
  for (let k = 1; k < SHIFT; k++) product = mul(product, add(x, k));
  const z = add(x, SHIFT), r = div(1, z), r2 = mul(r, r);
  const series = mul(r, add(1 / 12, mul(r2, add(-1 / 360, mul(r2, 1 / 1260)))));
  const main = add(sub(mul(sub(z, 0.5), log(z)), z), 0.5 * Math.log(2 * Math.PI));
  return sub(add(main, series), log(product));
}

/** The derivative of ln Γ(x) at x > 0. */
export function digamma(x: Value): Value {
  let terms = div(1, x);
  for (let k = 1; k < SHIFT; k++) terms = add(terms, div(1, add(x, k)));
  const z = add(x, SHIFT), r = div(1, z), r2 = mul(r, r);
  const series = mul(r2, add(1 / 12, mul(r2, add(-1 / 120, mul(r2, 1 / 252)))));
  return sub(sub(sub(log(z), mul(r, 0.5)), series), terms);
}

/** Of each row [N, E] the place of each number among the others, the largest first, `i32`. */
export function placesOf(x: Value): Value {
  const [rows, count] = x.shape, square = [1, count, count];
  const mine = reshape(x, [rows, count, 1]), other = reshape(x, [rows, 1, count]);
  const earlier = less(iota(x.graph, square, { axis: 2 }), iota(x.graph, square, { axis: 1 }));
  // Where numbers are none, each has its own place still.
  const before = or(greater(other, mine), and(not(less(other, mine)), earlier));
  return cast(sum(cast(before, "f32"), { axes: [2] }), "i32");
}
