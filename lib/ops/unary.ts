/**
 * `unary`: scalar functions of one argument, applied to each element.
 *
 * @module
 */
import { emitUnary } from "./onnx-elementwise.ts";
import { COS, ERF, EXP, LOG, SIN, TANH } from "../../kernels/scalar-functions.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { div, mul, sub } from "./binary.ts";
import type { Operation } from "./operation.ts";
import type { Value } from "./value.ts";

/** The functions that `unary` knows; each row is its derivative from the input, the output and the gradient. */
const FUNCTIONS = {
  neg: (_x: Value, _y: Value, g: Value) => neg(g),
  exp: (_x: Value, y: Value, g: Value) => mul(g, y),
  log: (x: Value, _y: Value, g: Value) => div(g, x),
  sqrt: (_x: Value, y: Value, g: Value) => div(mul(g, 0.5), y),
  rsqrt: (x: Value, y: Value, g: Value) => mul(g, mul(div(y, x), -0.5)),
  tanh: (_x: Value, y: Value, g: Value) => mul(g, sub(1, mul(y, y))),
  sigmoid: (_x: Value, y: Value, g: Value) => mul(g, mul(y, sub(1, y))),
  sin: (x: Value, _y: Value, g: Value) => mul(g, cos(x)),
  cos: (x: Value, _y: Value, g: Value) => neg(mul(g, sin(x))),
  abs: (x: Value, _y: Value, g: Value) => mul(g, sign(x)),
  sign: null,
  floor: null,
  erf: (x: Value, _y: Value, g: Value) => mul(g, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI))),
  not: null,
} as const;

/** Name of a scalar function of one argument. */
export type UnaryFunction = keyof typeof FUNCTIONS;

function unary(fn: UnaryFunction, x: Value): Value {
  return x.graph.node("unary", [x], { fn }, x);
}

/** −x */
export function neg(x: Value): Value {
  return unary("neg", x);
}
/** eˣ */
export function exp(x: Value): Value {
  return unary("exp", x);
}
/** Natural logarithm. */
export function log(x: Value): Value {
  return unary("log", x);
}
/** √x */
export function sqrt(x: Value): Value {
  return unary("sqrt", x);
}
/** 1/√x */
export function rsqrt(x: Value): Value {
  return unary("rsqrt", x);
}
/** Hyperbolic tangent. */
export function tanh(x: Value): Value {
  return unary("tanh", x);
}
/** 1/(1+e⁻ˣ) */
export function sigmoid(x: Value): Value {
  return unary("sigmoid", x);
}
/** Sine, in radians. */
export function sin(x: Value): Value {
  return unary("sin", x);
}
/** Cosine, in radians. */
export function cos(x: Value): Value {
  return unary("cos", x);
}
/** |x| */
export function abs(x: Value): Value {
  return unary("abs", x);
}
/** −1, 0 or 1. */
export function sign(x: Value): Value {
  return unary("sign", x);
}
/** The largest whole number that is not greater. */
export function floor(x: Value): Value {
  return unary("floor", x);
}
/** The error function. */
export function erf(x: Value): Value {
  return unary("erf", x);
}
/** Logical not of a `bool`. */
export function not(x: Value): Value {
  return unary("not", x);
}

/** Each function in WGSL. */
const WGSL: Readonly<Record<UnaryFunction, (x: string) => string>> = {
  neg: (x) => `(-${x})`,
  exp: (x) => `accurateExp(${x})`,
  log: (x) => `accurateLog(${x})`,
  sqrt: (x) => `sqrt(${x})`,
  rsqrt: (x) => `inverseSqrt(${x})`,
  tanh: (x) => `accurateTanh(${x})`,
  sigmoid: (x) => `(1.0 / (1.0 + accurateExp(-${x})))`,
  sin: (x) => `accurateSin(${x})`,
  cos: (x) => `accurateCos(${x})`,
  abs: (x) => `abs(${x})`,
  sign: (x) => `sign(${x})`,
  floor: (x) => `floor(${x})`,
  erf: (x) => `accurateErf(${x})`,
  not: (x) => `(!${x})`,
};

const WGSL_FUNCTIONS = {
  exp: EXP,
  log: LOG,
  tanh: TANH,
  sigmoid: EXP,
  sin: SIN,
  cos: COS,
  erf: ERF,
} as const;

/** The rules of `unary`. */
export const unaryOperation: Operation = {
  name: "unary",
  gradient: (node, g) => {
    const rule = FUNCTIONS[node.attributes.fn as UnaryFunction];
    return [rule && (() => rule(node.inputs[0], node, g))];
  },
  onnx: { emit: emitUnary },
  flops: (node) => sizeOf(node.shape),
  kernel: {
    kind: "elementwise",
    expression: (node, [x]) => WGSL[node.attributes.fn as UnaryFunction](x),
    functions: (node) => {
      const name = node.attributes.fn as UnaryFunction;
      return name in WGSL_FUNCTIONS ? [WGSL_FUNCTIONS[name as keyof typeof WGSL_FUNCTIONS]] : [];
    },
  },
};
