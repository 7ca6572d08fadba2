/**
 * The two factors of a LoRA as matrices to calculate with.
 *
 * @module
 */
import { fanIn, isOutIn, type Site } from "../../model/site.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { computedTensor } from "../../tensor/computed.ts";
import { sizeOf } from "../../tensor/dtype.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import {
  firstRows,
  type FlatMatrix,
  flatMatrix,
  leadingQr,
  type LeadingSvd,
  leadingSvd,
  matrixOf,
  rowProducts,
  scaledRows,
  transposed,
} from "../linalg.ts";
import type { Leaves } from "../method.ts";

/** Two factors of a change of a weight, B·A [out, in]. */
export interface Factors {
  /** [rank, in] */
  readonly a: FlatMatrix;
  /** [out, rank] */
  readonly b: FlatMatrix;
}

/** The factors that a site's leaves stand for as a plain LoRA, without their scale. */
export async function factorsOf(leaves: Leaves): Promise<Factors> {
  const a = await matrixOf(leaves.lora_A ?? leaves.lora_embedding_A);
  const b = await matrixOf(leaves.lora_B ?? leaves.lora_embedding_B);
  if (!leaves.lora_A_init) return { a, b };
  // B·A − B₀·A₀
  const a0 = await matrixOf(leaves.lora_A_init), b0 = await matrixOf(leaves.lora_B_init);
  return stacked([{ a, b }, { a: a0, b: scaled(b0, -1) }]);
}

/** A matrix times a number. */
export function scaled(m: FlatMatrix, factor: number): FlatMatrix {
  return { ...m, data: m.data.map((x) => x * factor) };
}

/** Factors whose product is the sum of the products. */
export function stacked(all: readonly Factors[]): Factors {
  const rows = (matrices: readonly FlatMatrix[]): FlatMatrix => {
    const data = new Float64Array(sum(matrices.map((m) => m.data.length)));
    let at = 0;
    for (const m of matrices) {
      data.set(m.data, at);
      at += m.data.length;
    }
    return { rows: sum(matrices.map((m) => m.rows)), columns: matrices[0].columns, data };
  };
  return {
    a: rows(all.map(({ a }) => a)),
    b: transposed(rows(all.map(({ b }) => transposed(b)))),
  };
}

/**
 * The singular value decomposition of B·A, from QR decompositions of the factors: the product is not
 * made.
 */
export function productSvd({ a, b }: Factors): LeadingSvd {
  const left = leadingQr(b, Math.min(b.rows, b.columns));
  const right = leadingQr(transposed(a), Math.min(a.rows, a.columns));
  const core = rowProducts(left.r, right.r);
  const { u, s, v } = leadingSvd(core, Math.min(core.rows, core.columns));
  return { u: rowProducts(u, left.q), s, v: rowProducts(v, right.q) };
}

/**
 * Factors of the leading part of a decomposition: the singular values go to B, as in PEFT.
 *
 * @param svd A decomposition.
 * @param rank How many singular values are kept, at most.
 * @param clamp Elements are kept within this quantile of all elements and its negative.
 */
export function leadingFactors(
  { u, s, v }: LeadingSvd,
  rank: number,
  clamp?: number,
): Factors {
  const rows = Math.min(rank, s.length);
  const a = firstRows(v, rows), b = scaledRows(firstRows(u, rows), s);
  const limit = clamp === undefined ? Infinity : quantile([a.data, b.data], clamp);
  const clamped = (m: FlatMatrix): FlatMatrix => ({
    ...m,
    data: m.data.map((x) => Math.max(-limit, Math.min(limit, x))),
  });
  return { a: clamped(a), b: transposed(clamped(b)) };
}

/**
 * A quantile of numbers and their negatives, as the signs of singular vectors mean nothing;
 * interpolated like torch's.
 */
function quantile(parts: readonly Float64Array[], q: number): number {
  const all = Float64Array.from(parts.flatMap((part) => [...part, ...part.map((x) => -x)])).sort();
  const place = q * (all.length - 1), below = Math.floor(place);
  const next = all[Math.min(below + 1, all.length - 1)];
  return all[below] + (place - below) * (next - all[below]);
}

/** Leaves of a site from factors, which zeros fill up to the rank. */
export function factorLeaves(site: Site, { a, b }: Factors, rank: number): Leaves {
  const { outFeatures, kind } = site, shapes = factorShapes(site, rank);
  const A = new Float32Array(sizeOf(shapes.a)), B = new Float32Array(outFeatures * rank);
  A.set(a.data);
  for (let o = 0; o < outFeatures; o++) {
    for (let k = 0; k < b.columns; k++) B[o * rank + k] = b.data[o * b.columns + k];
  }
  const embedding = kind === "embedding";
  return {
    [embedding ? "lora_embedding_A" : "lora_A"]: tensor(A, { shape: shapes.a }),
    [embedding ? "lora_embedding_B" : "lora_B"]: tensor(B, { shape: shapes.b }),
  };
}

/** Shapes of A and B: of a convolution, A has the kernel, and B takes it to all channels. */
export function factorShapes(
  { conv, inFeatures, outFeatures, count = 1 }: Site,
  r: number,
): { readonly a: readonly number[]; readonly b: readonly number[] } {
  const { kernel = [], groups = 1 } = conv ?? {}, rank = r * count;
  return {
    a: [rank, inFeatures, ...kernel],
    b: [outFeatures, rank / groups, ...kernel.map(() => 1)],
  };
}

/** The length of what leads to each output feature, perhaps with a change of the weight. */
export function magnitudes(
  weight: Float32Array,
  of: { readonly site: Site; readonly change?: Factors & { readonly scale: number } },
): Float64Array {
  const { site: { kind, outFeatures }, change } = of, inputs = weight.length / outFeatures;
  const [outStep, inStep] = kind === "embedding" ? [1, outFeatures] : [inputs, 1];
  const squares = new Float64Array(outFeatures);
  const row = new Float64Array(inputs);
  for (let o = 0; o < outFeatures; o++) {
    for (let i = 0; i < inputs; i++) row[i] = weight[o * outStep + i * inStep];
    for (let k = 0; change && k < change.a.rows; k++) {
      // A convolution with groups has longer rows in the product than in its weight.
      const { a, b, scale } = change, at = o * inputs, first = at % a.columns;
      const factor = scale * b.data[(at - first) / a.columns * b.columns + k];
      for (let i = 0; i < inputs; i++) row[i] += factor * a.data[k * a.columns + first + i];
    }
    for (let i = 0; i < inputs; i++) squares[o] += row[i] * row[i];
  }
  return squares.map(Math.sqrt);
}

/** A change of a weight as [out, in], whichever way the site stores it. */
export function outIn(site: Site, change: ArrayLike<number>): FlatMatrix {
  const rows = site.outFeatures, columns = fanIn(site);
  return isOutIn(site)
    ? flatMatrix(change, { rows, columns })
    : transposed(flatMatrix(change, { rows: columns, columns: rows }));
}

/** A tensor that counts with a sign. */
export interface Signed {
  /** The tensor. */
  readonly tensor: Tensor;
  /** Its sign. */
  readonly sign: 1 | -1;
}

/** Matrices, or vectors, behind one another along an axis, times a factor; zeros fill the shape. */
export function joined(
  shape: readonly number[],
  of: { readonly parts: readonly Signed[]; readonly axis: 0 | 1; readonly factor?: number },
): Tensor {
  const { parts, axis, factor = 1 } = of;
  const [first] = parts;
  if (parts.length === 1 && factor === 1 && first.tensor.shape.join() === shape.join()) {
    return first.tensor;
  }
  return computedTensor(shape, async () => {
    const out = new Float32Array(sizeOf(shape));
    const width = sizeOf(shape) / shape[0];
    let at = 0;
    for (const { tensor, sign } of parts) {
      const values = await toFloat32(tensor);
      const own = sizeOf(tensor.shape) / tensor.shape[0];
      const start = axis === 0 ? at * width : at;
      for (let i = 0; i < values.length; i++) {
        out[start + Math.floor(i / own) * width + i % own] = sign * factor * values[i];
      }
      at += tensor.shape[axis];
    }
    return out;
  });
}

/** The sum of numbers. */
export function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
