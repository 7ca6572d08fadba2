/**
 * Activations by the names that configs have for them.
 *
 * @module
 */
import {
  abs,
  add,
  exp,
  greater,
  less,
  log,
  max,
  min,
  mul,
  normalCdf,
  type Operand,
  sigmoid,
  sqrt,
  sub,
  tanh,
} from "./elementwise.ts";
import { gelu, geluTanh, relu, silu } from "./functions.ts";
import { select } from "./select.ts";
import type { Value } from "./value.ts";

/** A function of each element. */
export type Activation = (x: Value) => Value;

/** log(1 + eˣ), of which nothing grows beyond bounds on the way, and what is small keeps its digits. */
function softplus(x: Value): Value {
  const y = exp(mul(abs(x), -1));
  const series = [-1 / 4, 1 / 3, -1 / 2, 1].reduce<Operand>((sum, c) => add(mul(y, sum), c), 1 / 5);
  return add(max(x, 0), select(less(y, 0.02), mul(y, series), log(add(y, 1))));
}

const relu6: Activation = (x) => min(relu(x), 6);
const leaky = (slope: number): Activation => (x) => max(x, mul(x, slope));

/** Where xIELU's exponential ends, near 0. */
const EPSILON = -9.98377799987793e-7;

/**
 * xIELU (Huang and Schlag, 2024, arXiv:2411.13010) with the parameters that it begins with, which
 * are bf16 in transformers.
 */
function xielu(x: Value): Value {
  const below = sub(sub(exp(min(x, EPSILON)), 1), x);
  const curved = select(greater(x, 0), mul(x, x), below);
  return add(mul(curved, 0.80078125), mul(x, 0.5));
}

/** transformers' names of activations. */
export const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  gelu,
  gelu_10: (x) => max(min(gelu(x), 10), -10),
  gelu_accurate: geluTanh,
  gelu_fast: geluTanh,
  gelu_new: geluTanh,
  gelu_python: gelu,
  gelu_python_tanh: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  hardswish: (x) => mul(x, mul(relu6(add(x, 3)), 1 / 6)),
  laplace: (x) => normalCdf(mul(add(x, -0.707107), 1 / 0.282095)),
  leaky_relu: leaky(0.01),
  linear: (x) => x,
  mish: (x) => mul(x, tanh(softplus(x))),
  prelu: leaky(0.25),
  quick_gelu: (x) => mul(x, sigmoid(mul(x, 1.702))),
  relu,
  relu2: (x) => mul(relu(x), relu(x)),
  relu6,
  sigmoid,
  silu,
  sqrtsoftplus: (x) => sqrt(softplus(x)),
  swish: silu,
  tanh,
  xielu,
};
