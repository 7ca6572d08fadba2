/**
 * Cases for the operations that work element by element.
 *
 * @module
 */
import {
  abs,
  add,
  and,
  cos,
  div,
  equal,
  erf,
  exp,
  floor,
  greater,
  greaterEqual,
  less,
  lessEqual,
  log,
  max,
  min,
  mul,
  neg,
  normalCdf,
  not,
  or,
  pow,
  rsqrt,
  sigmoid,
  sign,
  sin,
  sqrt,
  sub,
  tanh,
} from "../../lib/ops/elementwise.ts";
import { broadcast } from "../../lib/ops/broadcast.ts";
import { cast } from "../../lib/ops/cast.ts";
import { constant } from "../../lib/ops/constant.ts";
import { gelu, geluTanh, relu, silu } from "../../lib/ops/functions.ts";
import { iota } from "../../lib/ops/iota.ts";
import { select } from "../../lib/ops/select.ts";
import { stopGradient } from "../../lib/ops/stop-gradient.ts";
import type { Value, ValueType } from "../../lib/ops/value.ts";
import { withGradientOf } from "../../lib/ops/with-gradient-of.ts";
import type { Case } from "./cases.ts";
import { at, build, map, zip } from "./nd.ts";

const SHAPE = [3, 1, 7];

/** Numbers on both sides of 0 and ±1, none of them where a function bends. */
const SIGNED = Array.from({ length: 21 }, (_, i) => (i - 10) * 0.37 + 0.11);
const POSITIVE = Array.from({ length: 21 }, (_, i) => 0.05 + i * 0.31);

function erfOf(x: number): number {
  // Taylor series, which converges for the few arguments here.
  let term = x, sum = x;
  for (let n = 1; n < 200; n++) {
    term *= -x * x / n;
    sum += term / (2 * n + 1);
  }
  return 2 / Math.sqrt(Math.PI) * sum;
}

function unaryCase(
  name: string,
  fn: (x: Value) => Value,
  reference: (x: number) => number,
  data: readonly number[] = SIGNED,
): Case {
  return {
    name,
    inputs: { x: { shape: SHAPE, data, gradient: true } },
    build: (_graph, { x }) => fn(x),
    reference: ({ x }) => map(x, reference),
    // What is constant between its steps has no gradient, and none is asked for.
    ...(name === "floor" || name === "sign"
      ? { inputs: { x: { shape: SHAPE, data, gradient: false } } }
      : {}),
  };
}

const UNARY: readonly Case[] = [
  unaryCase("neg", neg, (x) => -x),
  unaryCase("exp", exp, Math.exp),
  unaryCase("log", log, Math.log, POSITIVE),
  unaryCase("sqrt", sqrt, Math.sqrt, POSITIVE),
  unaryCase("rsqrt", rsqrt, (x) => 1 / Math.sqrt(x), POSITIVE),
  unaryCase("tanh", tanh, Math.tanh),
  unaryCase("sigmoid", sigmoid, (x) => 1 / (1 + Math.exp(-x))),
  unaryCase("sin", sin, Math.sin),
  unaryCase("cos", cos, Math.cos),
  unaryCase("abs", abs, Math.abs),
  unaryCase("sign", sign, Math.sign),
  unaryCase("floor", floor, Math.floor),
  unaryCase("erf", erf, erfOf, SIGNED.map((x) => x / 2)),
  unaryCase("normalCdf", normalCdf, (x) => (1 + erfOf(x / Math.SQRT2)) / 2),
  unaryCase("silu", silu, (x) => x / (1 + Math.exp(-x))),
  unaryCase("gelu", gelu, (x) => x / 2 * (1 + erfOf(x / Math.SQRT2))),
  unaryCase(
    "geluTanh",
    geluTanh,
    (x) => x / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  ),
  unaryCase("relu", relu, (x) => Math.max(x, 0)),
  unaryCase(
    "sigmoid far from 0",
    sigmoid,
    (x) => 1 / (1 + Math.exp(-x)),
    SIGNED.map((x) => x * 20),
  ),
  {
    ...unaryCase("tanh far from 0", tanh, Math.tanh, SIGNED.map((x) => x * 20)),
    tolerance: 1e-5, // 1 − y² cancels
  },
];

function binaryCase(
  name: string,
  fn: (a: Value, b: Value) => Value,
  reference: (a: number, b: number) => number,
  options: { readonly positive?: boolean; readonly gradient?: boolean } = {},
): Case {
  const data = options.positive ? POSITIVE : SIGNED;
  const gradient = options.gradient ?? true;
  return {
    name,
    inputs: {
      a: { shape: SHAPE, data, gradient },
      // The rows meet each element of `a` with larger and smaller ones.
      b: { shape: [5, 1], data: [0.4, 1.3, options.positive ? 0.7 : -0.9, 2.1, 0.05], gradient },
    },
    build: (_graph, { a, b }) => fn(a, b),
    reference: ({ a, b }) => zip(a, b, reference),
  };
}

const number = (fn: (a: Value, b: Value) => Value) => (a: Value, b: Value) => cast(fn(a, b), "f32");
const same = { gradient: false } as const;

const BINARY: readonly Case[] = [
  binaryCase("add", add, (a, b) => a + b),
  binaryCase("sub", sub, (a, b) => a - b),
  binaryCase("mul", mul, (a, b) => a * b),
  binaryCase("div", div, (a, b) => a / b),
  binaryCase("pow", pow, Math.pow, { positive: true }),
  binaryCase("max", max, Math.max),
  binaryCase("min", min, Math.min),
  binaryCase("less", number(less), (a, b) => +(a < b), same),
  binaryCase("lessEqual", number(lessEqual), (a, b) => +(a <= b), same),
  binaryCase("greater", number(greater), (a, b) => +(a > b), same),
  binaryCase("greaterEqual", number(greaterEqual), (a, b) => +(a >= b), same),
  {
    name: "numbers on either side",
    inputs: { x: { shape: [2, 5] } },
    build: (_graph, { x }) => sub(3, div(mul(x, 2.5), add(4, x))),
    reference: ({ x }) => map(x, (v) => 3 - v * 2.5 / (4 + v)),
  },
  {
    name: "a square of negative numbers",
    inputs: { x: { shape: [7], data: [-3, -2, -0.5, 0.25, 1, 2, 3] } },
    build: (_graph, { x }) => pow(x, 2),
    reference: ({ x }) => map(x, (v) => v * v),
  },
  {
    name: "the same value twice",
    inputs: { x: { shape: [3, 3] } },
    build: (_graph, { x }) => add(mul(x, x), x),
    reference: ({ x }) => map(x, (v) => v * v + v),
  },
];

const INTEGERS = [-7, -3, -2, -1, 0, 1, 2, 3, 5, 100000];

function integerCase(
  name: string,
  dtype: ValueType,
  fn: (a: Value, b: Value) => Value,
  reference: (a: number, b: number) => number,
): Case {
  const data = dtype === "i32" ? INTEGERS : INTEGERS.map((v) => Math.abs(v) % 200);
  return {
    name: `${name} of ${dtype}`,
    inputs: {
      a: { shape: [10], dtype, data },
      b: { shape: [3, 1], dtype, data: dtype === "i32" ? [2, -3, 7] : [2, 3, 7] },
    },
    build: (_graph, { a, b }) => cast(fn(a, b), "f32"),
    reference: ({ a, b }) => zip(a, b, reference),
    tolerance: 0,
  };
}

const INTEGER: readonly Case[] = [
  ...(["i32", "u32"] as const).flatMap((dtype): Case[] => [
    integerCase("add", dtype, add, (a, b) => a + b),
    integerCase("mul", dtype, mul, (a, b) => a * b),
    integerCase("div", dtype, div, (a, b) => Math.trunc(a / b)),
    integerCase("max", dtype, max, Math.max),
    integerCase("min", dtype, min, Math.min),
    integerCase("equal", dtype, equal, (a, b) => +(a === b)),
    integerCase("less", dtype, less, (a, b) => +(a < b)),
    integerCase("greaterEqual", dtype, greaterEqual, (a, b) => +(a >= b)),
  ]),
  integerCase("sub", "i32", sub, (a, b) => a - b),
  {
    name: "unary functions of i32",
    inputs: { x: { shape: [10], dtype: "i32", data: INTEGERS } },
    build: (_graph, { x }) => add(cast(neg(abs(x)), "f32"), cast(sign(x), "f32")),
    reference: ({ x }) => map(x, (v) => -Math.abs(v) + Math.sign(v)),
  },
  {
    name: "logic",
    inputs: { a: { shape: [3, 4] }, b: { shape: [4] } },
    build: (_graph, { a, b }) =>
      cast(or(and(greater(a, 0), less(b, 0.5)), not(less(a, -0.5))), "f32"),
    reference: ({ a, b }) => zip(a, b, (x, y) => +((x > 0 && y < 0.5) || !(x < -0.5))),
    ...same,
  },
];

const round16 = (x: number) => new Float16Array([x])[0];

const OTHER: readonly Case[] = [
  {
    name: "select with broadcasting",
    inputs: { a: { shape: [2, 1, 3] }, b: { shape: [4, 1] } },
    build: (_graph, { a, b }) => select(greater(add(a, b), 0), a, b),
    reference: ({ a, b }) => zip(a, b, (x, y) => x + y > 0 ? x : y),
  },
  {
    name: "select with a number",
    inputs: { a: { shape: [5, 3] } },
    build: (_graph, { a }) => select(less(a, 0.1), mul(a, 3), -2.5),
    reference: ({ a }) => map(a, (x) => x < 0.1 ? 3 * x : -2.5),
  },
  {
    name: "select of i32 and of bool",
    inputs: { a: { shape: [6], dtype: "i32", data: [-2, -1, 0, 1, 2, 3] } },
    build: (_graph, { a }) =>
      add(
        cast(select(greater(a, 0), a, 9), "f32"),
        mul(cast(select(equal(a, 1), greater(a, 5), less(a, 3)), "f32"), 0.5),
      ),
    reference: ({ a }) => map(a, (x) => (x > 0 ? x : 9) + (x === 1 ? 0 : x < 3 ? 0.5 : 0)),
  },
  {
    name: "cast of floats to integers and back",
    inputs: {
      x: { shape: [9], data: [-3.9, -2.5, -1, -0.4, 0, 0.6, 1, 2.5, 7.99], gradient: false },
    },
    build: (_graph, { x }) => cast(cast(x, "i32"), "f32"),
    reference: ({ x }) => map(x, Math.trunc),
    tolerance: 0,
  },
  {
    name: "cast of bool and u8",
    inputs: { x: { shape: [5], dtype: "u8", data: [0, 1, 7, 200, 255] } },
    build: (_graph, { x }) => add(cast(x, "f32"), cast(greater(cast(x, "i32"), 6), "f32")),
    reference: ({ x }) => map(x, (v) => v + (v > 6 ? 1 : 0)),
    tolerance: 0,
  },
  {
    name: "f16 and back",
    inputs: { x: { shape: [11] } },
    build: (_graph, { x }) => cast(cast(x, "f16"), "f32"),
    reference: ({ x }) => map(x, round16),
    surrogate: ({ x }) => x,
    // The gradient is rounded on its way back, too.
    tolerance: 2e-3,
  },
  {
    name: "f16 at its ends",
    inputs: {
      x: {
        shape: [10],
        data: [65519, -65503.9, 6.2e-8, -3e-8, 2.9e-8, 3.0001e-5, -6.1034e-5, 6.1036e-5, 0, 2049],
        gradient: false,
      },
    },
    build: (_graph, { x }) => cast(cast(x, "f16"), "f32"),
    reference: ({ x }) => map(x, round16),
    tolerance: 0,
  },
  {
    name: "constants",
    inputs: { x: { shape: [2, 3] } },
    build: (graph, { x }) =>
      add(
        mul(x, constant(graph, [1, -2, 3, 4, 5.5, -6], { shape: [2, 3] })),
        constant(graph, 0.25, { shape: [2, 3] }),
      ),
    reference: ({ x }) => {
      const factors = [1, -2, 3, 4, 5.5, -6];
      return build([2, 3], (i) => at(x, i) * factors[i[0] * 3 + i[1]] + 0.25);
    },
  },
  {
    name: "a constant of its own",
    inputs: { x: { shape: [1] } },
    build: (graph, { x }) => broadcast(add(x, constant(graph, 2, { shape: [3, 1] })), [3, 4]),
    reference: ({ x }) => build([3, 4], () => x.data[0] + 2),
  },
  {
    name: "i32 constants",
    inputs: { x: { shape: [4], dtype: "i32", data: [5, -6, 7, 8] } },
    build: (graph, { x }) => cast(mul(x, constant(graph, [3, 2, -1, 0], { dtype: "i32" })), "f32"),
    reference: ({ x }) => build([4], ([i]) => x.data[i] * [3, 2, -1, 0][i]),
  },
  {
    name: "iota",
    inputs: { x: { shape: [3, 5] } },
    build: (graph, { x }) =>
      add(
        x,
        cast(
          add(iota(graph, [3, 5], { axis: 0 }), mul(iota(graph, [3, 5], { axis: 1 }), 10)),
          "f32",
        ),
      ),
    reference: ({ x }) => build([3, 5], (i) => at(x, i) + i[0] + 10 * i[1]),
  },
  {
    name: "broadcast",
    inputs: { x: { shape: [3, 1] } },
    build: (_graph, { x }) => broadcast(x, [2, 3, 5]),
    reference: ({ x }) => build([2, 3, 5], (i) => at(x, i)),
  },
  {
    name: "stopGradient",
    inputs: { x: { shape: [4, 3] } },
    build: (_graph, { x }) => mul(x, stopGradient(mul(x, 3))),
    reference: ({ x }) => map(x, (v) => 3 * v * v),
    surrogate: ({ x }, original) => zip(x, original.x, (v, fixed) => 3 * v * fixed),
  },
  {
    name: "withGradientOf",
    inputs: { x: { shape: [4, 3] } },
    build: (_graph, { x }) => withGradientOf(mul(x, 3), mul(x, x)),
    reference: ({ x }) => map(x, (v) => 3 * v),
    surrogate: ({ x }) => map(x, (v) => v * v),
  },
];

/** Cases for unary, binary, select, cast, constant, iota, broadcast, stopGradient and withGradientOf. */
export const ELEMENTWISE_CASES: readonly Case[] = [...UNARY, ...BINARY, ...INTEGER, ...OTHER];
