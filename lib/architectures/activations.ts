/**
 * Activations by the names that configs have for them.
 *
 * @module
 */
import { gelu, geluTanh, relu, silu } from "../ops/functions.ts";
import { mul, sigmoid, tanh } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";

/** A function of each element. */
export type Activation = (x: Value) => Value;

/** transformers' names of activations. */
export const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  gelu,
  gelu_new: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  quick_gelu: (x) => mul(x, sigmoid(mul(x, 1.702))),
  relu,
  silu,
  swish: silu,
  tanh,
};
