/**
 * Arrays of 64-bit floats, slow and plain, as references for the operations.
 *
 * @module
 */
import { broadcastShapes } from "../../lib/ops/shapes.ts";
import { stridesOf } from "../../lib/tensor/dtype.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";

/** A shape and its elements in row-major order. */
export interface Nd {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** An array whose element at each index is computed. */
export function build(shape: readonly number[], element: (index: readonly number[]) => number): Nd {
  const data = new Float64Array(sizeOf(shape));
  const strides = stridesOf(shape);
  for (let i = 0; i < data.length; i++) {
    data[i] = element(shape.map((d, axis) => Math.floor(i / strides[axis]) % d));
  }
  return { shape, data };
}

/** The element at an index; an axis of length 1 takes any index, and leading axes may be missing. */
export function at(x: Nd, index: readonly number[]): number {
  const strides = stridesOf(x.shape);
  const from = index.length - x.shape.length;
  let offset = 0;
  x.shape.forEach((d, axis) => offset += (d === 1 ? 0 : index[from + axis]) * strides[axis]);
  return x.data[offset];
}

/** A function of each element. */
export function map(x: Nd, fn: (value: number) => number): Nd {
  return { shape: x.shape, data: x.data.map(fn) };
}

/** A function of each pair of elements, with broadcasting. */
export function zip(a: Nd, b: Nd, fn: (x: number, y: number) => number): Nd {
  return build(broadcastShapes(a.shape, b.shape), (i) => fn(at(a, i), at(b, i)));
}

/** The same elements under another shape. */
export function reshaped(x: Nd, shape: readonly number[]): Nd {
  return { shape, data: x.data };
}

/** Axis `i` of the result is axis `order[i]` of the array. */
export function permuted(x: Nd, order: readonly number[]): Nd {
  return build(order.map((a) => x.shape[a]), (index) => {
    const source: number[] = [];
    order.forEach((a, i) => source[a] = index[i]);
    return at(x, source);
  });
}

/** Reduces axes, which stay as 1. */
export function reduced(
  x: Nd,
  options: { readonly axes: readonly number[]; readonly fn: (a: number, b: number) => number },
): Nd {
  const { axes, fn } = options;
  const shape = x.shape.map((d, i) => axes.includes(i) ? 1 : d);
  const strides = stridesOf(shape), from = stridesOf(x.shape);
  const data = new Float64Array(sizeOf(shape)).fill(NaN);
  for (let i = 0; i < x.data.length; i++) {
    let target = 0;
    x.shape.forEach((d, a) => {
      if (!axes.includes(a)) target += Math.floor(i / from[a]) % d * strides[a];
    });
    data[target] = Number.isNaN(data[target]) ? x.data[i] : fn(data[target], x.data[i]);
  }
  return { shape, data };
}

/** Matrix product of the last two axes; leading axes broadcast. */
export function product(
  a: Nd,
  b: Nd,
  options: { readonly transposeA?: boolean; readonly transposeB?: boolean } = {},
): Nd {
  const swapped = (x: Nd, swap?: boolean) => {
    const n = x.shape.length;
    return swap ? permuted(x, x.shape.map((_, i) => i < n - 2 ? i : 2 * n - 3 - i)) : x;
  };
  const left = swapped(a, options.transposeA), right = swapped(b, options.transposeB);
  const k = left.shape[left.shape.length - 1];
  const batch = broadcastShapes(left.shape.slice(0, -2), right.shape.slice(0, -2));
  const m = left.shape[left.shape.length - 2], n = right.shape[right.shape.length - 1];
  return build([...batch, m, n], (index) => {
    const lead = index.slice(0, -2), [i, j] = index.slice(-2);
    let sum = 0;
    for (let p = 0; p < k; p++) sum += at(left, [...lead, i, p]) * at(right, [...lead, p, j]);
    return sum;
  });
}

/** Normalised exponentials over the last axis. */
export function softmaxed(x: Nd): Nd {
  const last = [x.shape.length - 1];
  const e = zip(x, reduced(x, { axes: last, fn: Math.max }), (a, m) => Math.exp(a - m));
  return zip(e, reduced(e, { axes: last, fn: (a, b) => a + b }), (a, s) => a / s);
}
