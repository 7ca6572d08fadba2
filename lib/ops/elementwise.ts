/**
 * `unary` and `binary`: scalar functions of one and of two arguments, applied element by element, the latter with broadcasting.
 *
 * @module
 */
import type { NodeSpec } from "../../kernels/kernel-rule.ts";
import { COS, ERF, EXP, LOG, POW, SIN, TANH } from "../../kernels/scalar-functions.ts";
import { literal } from "../../kernels/wgsl.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { cast } from "./cast.ts";
import { constant } from "./constant.ts";
import { emitBinary, emitUnary, type OnnxStep } from "./onnx-elementwise.ts";
import type { OnnxContext } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { broadcastShapes, checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/** All there is to know about a function. */
interface ScalarRule {
  /** ONNX operators, one after the other, some with a number as their second argument. */
  readonly onnx: readonly OnnxStep[];
  /** WGSL of the result from that of the arguments. */
  readonly wgsl: (args: readonly string[], node: NodeSpec) => string;
  /** WGSL functions that it calls. */
  readonly functions?: string;
  /** The derivative for each argument, from the gradient, the output and the arguments. */
  readonly d?: readonly ((g: Value, y: Value, a: Value, b: Value) => Value)[];
  /** Rough work, where an addition is 1. */
  readonly work?: number;
  /** ONNX has it for all types; others are for floats only. */
  readonly asGiven?: true;
  /** The result is a `bool`. */
  readonly compare?: true;
}

const call = (name: string) => (args: readonly string[]): string => `${name}(${args.join(", ")})`;
const infix = (operator: string) => ([a, b]: readonly string[]): string =>
  `(${a} ${operator} ${b})`;
const comparison = (onnx: string, operator: string): ScalarRule => ({
  onnx: [onnx],
  wgsl: infix(operator),
  compare: true,
});
/** A function that kernels/scalar-functions.ts has. */
const accurate = (
  name: string,
  more: Pick<ScalarRule, "functions" | "d" | "work">,
): ScalarRule => ({ onnx: [name], wgsl: call(`accurate${name}`), ...more });

const UNARY = {
  neg: { onnx: ["Neg"], wgsl: ([x]) => `(-${x})`, d: [(g) => neg(g)], asGiven: true },
  exp: accurate("Exp", { functions: EXP, d: [(g, y) => mul(g, y)], work: 6 }),
  log: accurate("Log", { functions: LOG, d: [(g, _y, x) => div(g, x)], work: 8 }),
  sqrt: { onnx: ["Sqrt"], wgsl: call("sqrt"), d: [(g, y) => div(mul(g, 0.5), y)] },
  rsqrt: {
    onnx: ["Sqrt", "Reciprocal"],
    wgsl: call("inverseSqrt"),
    d: [(g, y, x) => mul(g, mul(div(y, x), -0.5))],
  },
  tanh: accurate("Tanh", { functions: TANH, d: [(g, y) => mul(g, sub(1, mul(y, y)))], work: 10 }),
  sigmoid: {
    onnx: ["Sigmoid"],
    wgsl: ([x]) => `(1.0 / (1.0 + accurateExp(-${x})))`,
    functions: EXP,
    d: [(g, y) => mul(g, mul(y, sub(1, y)))],
    work: 8,
  },
  sin: accurate("Sin", { functions: SIN, d: [(g, _y, x) => mul(g, cos(x))], work: 8 }),
  cos: accurate("Cos", { functions: COS, d: [(g, _y, x) => neg(mul(g, sin(x)))], work: 8 }),
  abs: { onnx: ["Abs"], wgsl: call("abs"), d: [(g, _y, x) => mul(g, sign(x))], asGiven: true },
  sign: { onnx: ["Sign"], wgsl: call("sign"), asGiven: true },
  floor: { onnx: ["Floor"], wgsl: call("floor") },
  erf: accurate("Erf", {
    functions: ERF,
    d: [(g, _y, x) => mul(g, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI)))],
    work: 12,
  }),
  normalCdf: {
    onnx: [["Mul", Math.SQRT1_2], "Erf", ["Add", 1], ["Mul", 0.5]],
    wgsl: ([x]) => `(0.5 + 0.5 * accurateErf(${x} * ${Math.SQRT1_2}))`,
    functions: ERF,
    d: [(g, _y, x) => mul(g, mul(exp(mul(mul(x, x), -0.5)), 1 / Math.sqrt(2 * Math.PI)))],
    work: 15,
  },
  not: { onnx: ["Not"], wgsl: ([x]) => `(!${x})`, asGiven: true },
} as const satisfies Readonly<Record<string, ScalarRule>>;

const BINARY = {
  add: { onnx: ["Add"], wgsl: infix("+"), d: [(g) => g, (g) => g] },
  sub: { onnx: ["Sub"], wgsl: infix("-"), d: [(g) => g, (g) => neg(g)] },
  mul: {
    onnx: ["Mul"],
    wgsl: infix("*"),
    d: [(g, _y, _a, b) => mul(g, b), (g, _y, a) => mul(g, a)],
  },
  div: {
    onnx: ["Div"],
    wgsl: infix("/"),
    d: [(g, _y, _a, b) => div(g, b), (g, y, _a, b) => neg(div(mul(g, y), b))],
    work: 2,
  },
  pow: {
    onnx: ["Pow"],
    wgsl: ([a, given], node) => {
      // Which power it is makes it another function: compilers leave nothing of x² but a product.
      const exponent = node.inputs[1].attributes?.value;
      const b = typeof exponent === "number" ? literal(exponent, node.dtype) : given;
      return node.dtype === "i32"
        ? `i32(round(accuratePow(f32(${a}), f32(${b}))))`
        : `accuratePow(${a}, ${b})`;
    },
    functions: POW,
    d: [(g, _y, a, b) => mul(g, mul(b, pow(a, sub(b, 1)))), (g, y, a) => mul(g, mul(y, log(a)))],
    work: 16,
  },
  max: {
    onnx: ["Max"],
    wgsl: call("max"),
    d: [
      (g, _y, a, b) => mul(g, cast(greaterEqual(a, b), "f32")),
      (g, _y, a, b) => mul(g, cast(less(a, b), "f32")),
    ],
  },
  min: {
    onnx: ["Min"],
    wgsl: call("min"),
    d: [
      (g, _y, a, b) => mul(g, cast(lessEqual(a, b), "f32")),
      (g, _y, a, b) => mul(g, cast(greater(a, b), "f32")),
    ],
  },
  less: comparison("Less", "<"),
  lessEqual: comparison("LessOrEqual", "<="),
  greater: comparison("Greater", ">"),
  greaterEqual: comparison("GreaterOrEqual", ">="),
  equal: comparison("Equal", "=="),
  and: comparison("And", "&&"),
  or: comparison("Or", "||"),
} as const satisfies Readonly<Record<string, ScalarRule>>;

/** A value, or a number that stands for a constant of the other argument's type. */
export type Operand = Value | number;

/** A function of one argument, applied to each element. */
export type UnaryFunction = (x: Value) => Value;
/** A function of two arguments, applied to each pair of elements, with broadcasting; at least one argument is a value. */
export type BinaryFunction = (a: Operand, b: Operand) => Value;

function unary(fn: keyof typeof UNARY): UnaryFunction {
  return (x) => x.graph.node("unary", [x], { fn }, x);
}

function binary(fn: keyof typeof BINARY): BinaryFunction {
  const { compare }: ScalarRule = BINARY[fn];
  const logical = fn === "and" || fn === "or";
  return (a, b) => {
    const like = (typeof a === "number" ? b : a) as Value;
    const x = typeof a === "number" ? constant(like.graph, a, { dtype: like.dtype }) : a;
    const y = typeof b === "number" ? constant(like.graph, b, { dtype: like.dtype }) : b;
    checkShapes(x.dtype === y.dtype, fn, "two values of one type", [x, y]);
    checkShapes(logical === (x.dtype === "bool"), fn, logical ? "bool values" : "numbers", [x, y]);
    return x.graph.node("binary", [x, y], { fn }, {
      shape: broadcastShapes(x.shape, y.shape),
      dtype: compare ? "bool" : x.dtype,
    });
  };
}

/** −x */
export const neg: UnaryFunction = unary("neg");
/** eˣ */
export const exp: UnaryFunction = unary("exp");
/** Natural logarithm. */
export const log: UnaryFunction = unary("log");
/** √x */
export const sqrt: UnaryFunction = unary("sqrt");
/** 1/√x */
export const rsqrt: UnaryFunction = unary("rsqrt");
/** Hyperbolic tangent. */
export const tanh: UnaryFunction = unary("tanh");
/** 1/(1+e⁻ˣ) */
export const sigmoid: UnaryFunction = unary("sigmoid");
/** Sine, in radians. */
export const sin: UnaryFunction = unary("sin");
/** Cosine, in radians. */
export const cos: UnaryFunction = unary("cos");
/** |x| */
export const abs: UnaryFunction = unary("abs");
/** −1, 0 or 1. */
export const sign: UnaryFunction = unary("sign");
/** The largest whole number that is not greater. */
export const floor: UnaryFunction = unary("floor");
/** The error function. */
export const erf: UnaryFunction = unary("erf");
/** How likely a number drawn from the standard normal distribution is at most x. */
export const normalCdf: UnaryFunction = unary("normalCdf");
/** Logical not of a `bool`. */
export const not: UnaryFunction = unary("not");

/** a + b */
export const add: BinaryFunction = binary("add");
/** a − b */
export const sub: BinaryFunction = binary("sub");
/** a · b */
export const mul: BinaryFunction = binary("mul");
/** a / b */
export const div: BinaryFunction = binary("div");
/** aᵇ; a ≥ 0 unless b is a whole number. */
export const pow: BinaryFunction = binary("pow");
/** The larger of the two. */
export const max: BinaryFunction = binary("max");
/** The smaller of the two. */
export const min: BinaryFunction = binary("min");
/** a < b */
export const less: BinaryFunction = binary("less");
/** a ≤ b */
export const lessEqual: BinaryFunction = binary("lessEqual");
/** a > b */
export const greater: BinaryFunction = binary("greater");
/** a ≥ b */
export const greaterEqual: BinaryFunction = binary("greaterEqual");
/** a = b */
export const equal: BinaryFunction = binary("equal");
/** Both. */
export const and: (a: Value, b: Value) => Value = binary("and");
/** Either. */
export const or: (a: Value, b: Value) => Value = binary("or");

function operation(
  name: string,
  rules: Readonly<Record<string, ScalarRule>>,
  emit: (context: OnnxContext, rule: ScalarRule) => string,
): Operation {
  const ruleOf = (node: Pick<NodeSpec, "attributes">) => rules[node.attributes.fn as string];
  return {
    name,
    gradient: (node, g) => {
      const { d } = ruleOf(node), [a, b] = node.inputs;
      return node.inputs.map((_, i) => d ? () => d[i](g, node, a, b) : null);
    },
    onnx: { emit: (context) => emit(context, ruleOf(context.node)) },
    flops: (node) => sizeOf(node.shape),
    work: (node) => ruleOf(node).work ?? 1,
    kernel: {
      kind: "elementwise",
      expression: (node, args) => ruleOf(node).wgsl(args, node),
      functions: (node) => {
        const { functions } = ruleOf(node);
        return functions ? [functions] : [];
      },
    },
  };
}

/** The rules of `unary`. */
export const unaryOperation: Operation = operation("unary", UNARY, emitUnary);

/** The rules of `binary`. */
export const binaryOperation: Operation = operation("binary", BINARY, emitBinary);
