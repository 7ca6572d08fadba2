/**
 * Functions made of primitives that architectures and methods share.
 *
 * @module
 */
import { add, max, mul, normalCdf, sigmoid, tanh } from "./elementwise.ts";
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
