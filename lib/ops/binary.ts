/**
 * `binary`: scalar functions of two arguments, applied to each pair of elements, with broadcasting.
 *
 * @module
 */
import { emitBinary } from "./onnx-elementwise.ts";
import { POW } from "../../kernels/scalar-functions.ts";
import { literal } from "../../kernels/wgsl.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { cast } from "./cast.ts";
import { constant } from "./constant.ts";
import type { Operation } from "./operation.ts";
import { reduceTo } from "./reduce.ts";
import { broadcastShapes, checkShapes } from "./shapes.ts";
import { log, neg } from "./unary.ts";
import type { Value } from "./value.ts";

type Derivative = (a: Value, b: Value, y: Value, g: Value) => Value;

/** The functions that `binary` knows, with the derivative for each argument; `compare` ones give `bool`. */
const FUNCTIONS: Readonly<
  Record<string, { readonly compare?: true; readonly d?: readonly [Derivative, Derivative] }>
> = {
  add: { d: [(_a, _b, _y, g) => g, (_a, _b, _y, g) => g] },
  sub: { d: [(_a, _b, _y, g) => g, (_a, _b, _y, g) => neg(g)] },
  mul: { d: [(_a, b, _y, g) => mul(g, b), (a, _b, _y, g) => mul(g, a)] },
  div: { d: [(_a, b, _y, g) => div(g, b), (_a, b, y, g) => neg(div(mul(g, y), b))] },
  pow: {
    d: [
      (a, b, _y, g) => mul(g, mul(b, pow(a, sub(b, 1)))),
      (a, _b, y, g) => mul(g, mul(y, log(a))),
    ],
  },
  max: {
    d: [
      (a, b, _y, g) => mul(g, cast(greaterEqual(a, b), "f32")),
      (a, b, _y, g) => mul(g, cast(less(a, b), "f32")),
    ],
  },
  min: {
    d: [
      (a, b, _y, g) => mul(g, cast(lessEqual(a, b), "f32")),
      (a, b, _y, g) => mul(g, cast(greater(a, b), "f32")),
    ],
  },
  less: { compare: true },
  lessEqual: { compare: true },
  greater: { compare: true },
  greaterEqual: { compare: true },
  equal: { compare: true },
  and: { compare: true },
  or: { compare: true },
};

/** Name of a scalar function of two arguments. */
export type BinaryFunction =
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "pow"
  | "max"
  | "min"
  | "less"
  | "lessEqual"
  | "greater"
  | "greaterEqual"
  | "equal"
  | "and"
  | "or";

/** A value, or a number that stands for a constant of the other argument's type. */
export type Operand = Value | number;

function binary(fn: BinaryFunction, a: Operand, b: Operand): Value {
  const like = (typeof a === "number" ? b : a) as Value;
  const x = typeof a === "number" ? constant(like.graph, a, { dtype: like.dtype }) : a;
  const y = typeof b === "number" ? constant(like.graph, b, { dtype: like.dtype }) : b;
  checkShapes(x.dtype === y.dtype, fn, "two values of one type", [x, y]);
  const logical = fn === "and" || fn === "or";
  checkShapes(logical === (x.dtype === "bool"), fn, logical ? "bool values" : "numbers", [x, y]);
  return x.graph.node("binary", [x, y], { fn }, {
    shape: broadcastShapes(x.shape, y.shape),
    dtype: FUNCTIONS[fn].compare ? "bool" : x.dtype,
  });
}

/** a + b */
export function add(a: Operand, b: Operand): Value {
  return binary("add", a, b);
}
/** a − b */
export function sub(a: Operand, b: Operand): Value {
  return binary("sub", a, b);
}
/** a · b */
export function mul(a: Operand, b: Operand): Value {
  return binary("mul", a, b);
}
/** a / b */
export function div(a: Operand, b: Operand): Value {
  return binary("div", a, b);
}
/** aᵇ; a ≥ 0 unless b is a whole number. */
export function pow(a: Operand, b: Operand): Value {
  return binary("pow", a, b);
}
/** The larger of the two. */
export function max(a: Operand, b: Operand): Value {
  return binary("max", a, b);
}
/** The smaller of the two. */
export function min(a: Operand, b: Operand): Value {
  return binary("min", a, b);
}
/** a < b */
export function less(a: Operand, b: Operand): Value {
  return binary("less", a, b);
}
/** a ≤ b */
export function lessEqual(a: Operand, b: Operand): Value {
  return binary("lessEqual", a, b);
}
/** a > b */
export function greater(a: Operand, b: Operand): Value {
  return binary("greater", a, b);
}
/** a ≥ b */
export function greaterEqual(a: Operand, b: Operand): Value {
  return binary("greaterEqual", a, b);
}
/** a = b */
export function equal(a: Operand, b: Operand): Value {
  return binary("equal", a, b);
}
/** Both. */
export function and(a: Value, b: Value): Value {
  return binary("and", a, b);
}
/** Either. */
export function or(a: Value, b: Value): Value {
  return binary("or", a, b);
}

/** Each function in WGSL. */
const WGSL: Readonly<Record<BinaryFunction, (a: string, b: string) => string>> = {
  add: (a, b) => `(${a} + ${b})`,
  sub: (a, b) => `(${a} - ${b})`,
  mul: (a, b) => `(${a} * ${b})`,
  div: (a, b) => `(${a} / ${b})`,
  pow: (a, b) => `accuratePow(${a}, ${b})`,
  max: (a, b) => `max(${a}, ${b})`,
  min: (a, b) => `min(${a}, ${b})`,
  less: (a, b) => `(${a} < ${b})`,
  lessEqual: (a, b) => `(${a} <= ${b})`,
  greater: (a, b) => `(${a} > ${b})`,
  greaterEqual: (a, b) => `(${a} >= ${b})`,
  equal: (a, b) => `(${a} == ${b})`,
  and: (a, b) => `(${a} && ${b})`,
  or: (a, b) => `(${a} || ${b})`,
};

/** The rules of `binary`. */
export const binaryOperation: Operation = {
  name: "binary",
  gradient: (node, g) => {
    const [a, b] = node.inputs;
    const d = FUNCTIONS[node.attributes.fn as BinaryFunction].d;
    if (!d) return [null, null];
    return [
      () => reduceTo(d[0](a, b, node, g), a.shape),
      () => reduceTo(d[1](a, b, node, g), b.shape),
    ];
  },
  onnx: { emit: emitBinary },
  flops: (node) => sizeOf(node.shape),
  kernel: {
    kind: "elementwise",
    expression: (node, [a, given]) => {
      const fn = node.attributes.fn as BinaryFunction;
      if (fn !== "pow") return WGSL[fn](a, given);
      // Which power it is makes it another function: compilers leave nothing of x² but a product.
      const exponent = node.inputs[1].attributes?.value;
      const b = typeof exponent === "number" ? literal(exponent, node.dtype) : given;
      return node.dtype === "i32"
        ? `i32(round(accuratePow(f32(${a}), f32(${b}))))`
        : WGSL.pow(a, b);
    },
    functions: (node) => node.attributes.fn === "pow" ? [POW] : [],
  },
};
