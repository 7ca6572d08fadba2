/**
 * A plain interpreter of the operations without kernels of their own, in double precision: what the WebGPU device is compared with.
 *
 * @module
 */
import { stridesOf } from "../../lib/tensor/dtype.ts";
import type { Value } from "../../lib/ops/value.ts";
import type { Program } from "../../lib/program/program.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";

type Numbers = readonly number[];

/** Computes the outputs of a program from its inputs, element by element. */
export function interpret(
  program: Program,
  inputs: Readonly<Record<string, Numbers>>,
): Record<string, Numbers> {
  const values = new Map<Value, Numbers>();
  for (const v of program.nodes) {
    values.set(
      v,
      v.op === "input"
        ? inputs[v.attributes.name as string]
        : evaluate(v, v.inputs.map((x) => values.get(x)!)),
    );
  }
  return Object.fromEntries([...program.outputs].map(([name, v]) => [name, values.get(v)!]));
}

function evaluate(v: Value, inputs: readonly Numbers[]): Numbers {
  const size = sizeOf(v.shape);
  const each = (f: (index: number[], i: number) => number) =>
    Array.from({ length: size }, (_, i) => f(digits(i, v.shape), i));
  const [x] = v.inputs, [a] = inputs;
  /** Element of input n that broadcasts to an index of the output. */
  const at = (n: number, index: readonly number[]) => {
    const { shape } = v.inputs[n];
    const own = shape.map((d, i) => d === 1 ? 0 : index[i + index.length - shape.length]);
    return inputs[n][flat(own, shape)];
  };
  switch (v.op) {
    case "constant": {
      const { value } = v.attributes;
      return typeof value === "number" ? each(() => value) : value as Numbers;
    }
    case "iota":
      return each((index) => index[v.attributes.axis as number]);
    case "unary":
      return a.map((t) => round(UNARY[v.attributes.fn as string](t), v));
    case "binary":
      return each((i) => round(Number(BINARY[v.attributes.fn as string](at(0, i), at(1, i))), v));
    case "select":
      return each((i) => at(0, i) ? at(1, i) : at(2, i));
    case "cast":
      return a.map((t) => v.dtype === "bool" ? Number(t !== 0) : round(t, v));
    case "broadcast":
      return each((i) => at(0, i));
    case "reshape":
    case "stopGradient":
    case "withGradientOf":
      return a;
    case "transpose": {
      const order = v.attributes.permutation as Numbers;
      return each((i) => a[flat(x.shape.map((_, axis) => i[order.indexOf(axis)]), x.shape)]);
    }
    case "slice": {
      const starts = v.attributes.starts as Numbers;
      return each((i) => a[flat(i.map((t, axis) => t + starts[axis]), x.shape)]);
    }
    case "pad": {
      const low = v.attributes.low as Numbers;
      return each((i) => {
        const own = i.map((t, axis) => t - low[axis]);
        const inside = own.every((t, axis) => t >= 0 && t < x.shape[axis]);
        return inside ? a[flat(own, x.shape)] : 0;
      });
    }
    case "concat": {
      const axis = v.attributes.axis as number;
      return each((i) => {
        let n = 0, start = 0;
        while (i[axis] - start >= v.inputs[n].shape[axis]) start += v.inputs[n++].shape[axis];
        return inputs[n][flat(i.with(axis, i[axis] - start), v.inputs[n].shape)];
      });
    }
    case "reduce": {
      const isSum = v.attributes.fn === "sum";
      const result = new Array<number>(size).fill(isSum ? 0 : -Infinity);
      a.forEach((t, i) => {
        const own = digits(i, x.shape).map((d, axis) => v.shape[axis] === 1 ? 0 : d);
        const to = flat(own, v.shape);
        result[to] = isSum ? result[to] + t : Math.max(result[to], t);
      });
      return result;
    }
    case "dropoutMask": {
      const { rate, stream } = v.attributes as { rate: number; stream: number };
      const half = (i: number) => hash(i >>> 1, stream, a[0]) >>> (i & 1) * 16 & 0xffff;
      return each((_, i) => half(i) >= Math.round(rate * 2 ** 16) ? 1 / (1 - rate) : 0);
    }
    default:
      throw new TypeError(`The interpreter does not know ${v.op}.`);
  }
}

/** Integers and bools stay exact; half-width floats are rounded where they are made. */
function round(t: number, v: Value): number {
  if (v.dtype === "i32") return Math.trunc(t);
  if (v.dtype === "f16") return Math.f16round(t);
  return t;
}

const UNARY: Readonly<Record<string, (x: number) => number>> = {
  neg: (x) => -x,
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  rsqrt: (x) => 1 / Math.sqrt(x),
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  sin: Math.sin,
  cos: Math.cos,
  abs: Math.abs,
  sign: Math.sign,
  floor: Math.floor,
  erf,
  normalCdf: (x) => (1 + erf(x / Math.SQRT2)) / 2,
  not: (x) => Number(!x),
};

const BINARY: Readonly<Record<string, (a: number, b: number) => number | boolean>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  pow: Math.pow,
  max: Math.max,
  min: Math.min,
  less: (a, b) => a < b,
  lessEqual: (a, b) => a <= b,
  greater: (a, b) => a > b,
  greaterEqual: (a, b) => a >= b,
  equal: (a, b) => a === b,
  and: (a, b) => Boolean(a && b),
  or: (a, b) => Boolean(a || b),
};

/** The error function by its Taylor series, and by its continued fraction far out. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 3) {
    let f = 0;
    for (let k = 60; k >= 1; k--) f = k / 2 / (a + f);
    return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f));
  }
  let term = x, sum = x;
  for (let n = 1; n < 100; n++) {
    term *= -x * x / n;
    sum += term / (2 * n + 1);
  }
  return 2 / Math.sqrt(Math.PI) * sum;
}

/** The hash of dropout masks, with 32-bit integers as JavaScript has them. */
export function hash(index: number, stream: number, seed: number): number {
  const mix = (n: number) => {
    let x = n >>> 0;
    x = Math.imul(x ^ x >>> 16, 0x7feb352d);
    x = Math.imul(x ^ x >>> 15, 0x846ca68b);
    return (x ^ x >>> 16) >>> 0;
  };
  return mix(index ^ mix(stream ^ mix(seed)));
}

function digits(i: number, shape: Numbers): number[] {
  return stridesOf(shape).map((s, axis) => Math.floor(i / s) % shape[axis]);
}

function flat(index: Numbers, shape: Numbers): number {
  return stridesOf(shape).reduce((n, s, axis) => n + s * index[axis], 0);
}
