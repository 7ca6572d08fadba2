/**
 * Cases for what models are made of: norms, softmax, rotary embedding, loss and dropout.
 *
 * @module
 */
import { add, mul } from "../../lib/ops/elementwise.ts";
import { crossEntropy, IGNORED_LABEL } from "../../lib/ops/cross-entropy.ts";
import { constant } from "../../lib/ops/constant.ts";
import { inverse } from "../../lib/ops/inverse.ts";
import type { Graph, Value } from "../../lib/ops/value.ts";
import { dropoutMask } from "../../lib/ops/dropout-mask.ts";
import { layerNorm } from "../../lib/ops/layer-norm.ts";
import { uniform } from "../../lib/ops/uniform.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { rmsNorm } from "../../lib/ops/rms-norm.ts";
import { rope } from "../../lib/ops/rope.ts";
import { softmax } from "../../lib/ops/softmax.ts";
import { type Case, noise } from "./cases.ts";
import { at, build, type Nd, reshaped, softmaxed } from "./nd.ts";

function rowStatistics(x: Nd, index: readonly number[]) {
  const n = x.shape[x.shape.length - 1];
  let sum = 0, squares = 0;
  for (let j = 0; j < n; j++) {
    const v = at(x, [...index.slice(0, -1), j]);
    sum += v;
    squares += v * v;
  }
  return { mean: sum / n, square: squares / n };
}

function rotated(x: Nd, cos: Nd, sin: Nd, inverse = false): Nd {
  const half = x.shape[3] / 2;
  return build(x.shape, ([b, t, h, d]) => {
    const j = d % half;
    const c = at(cos, [b, t, j]), s = at(sin, [b, t, j]) * (inverse ? -1 : 1);
    const low = at(x, [b, t, h, j]), high = at(x, [b, t, h, j + half]);
    return d < half ? low * c - high * s : high * c + low * s;
  });
}

const ANGLES = { dtype: "f32", gradient: false } as const;

function losses(logits: Nd, labels: readonly number[]): Nd {
  const p = softmaxed(logits);
  return build(
    [labels.length],
    ([i]) => labels[i] === IGNORED_LABEL ? 0 : -Math.log(at(p, [i, labels[i]])),
  );
}

const LABELS = [3, IGNORED_LABEL, 0, 10, 10];

/** The generator as it is documented: its numbers, one after the other. */
function hashes(stream: number, seed: number): () => number {
  const mix = (x: number) => {
    x = Math.imul(x ^ x >>> 16, 0x7feb352d);
    x = Math.imul(x ^ x >>> 15, 0x846ca68b);
    return (x ^ x >>> 16) >>> 0;
  };
  const key = mix(stream ^ mix(seed));
  let i = 0;
  return () => mix(i++ ^ key);
}

function maskOf(shape: readonly number[], seed: number, stream: number, rate: number): Nd {
  const next = hashes(stream, seed), smallest = Math.round(rate * 2 ** 16);
  let i = 0, both = 0;
  return build(shape, () => {
    if (i % 2 === 0) both = next();
    return (both >>> i++ % 2 * 16 & 0xffff) >= smallest ? 1 / (1 - rate) : 0;
  });
}

/** Twice the identity. */
function identity(graph: Graph, side: number): Value {
  const diagonal = Array.from({ length: side ** 2 }, (_, i) => i % (side + 1) ? 0 : 2);
  return constant(graph, diagonal, { shape: [side, side] });
}

/** Inverses of the matrices in the last two axes, by elimination with the largest pivot. */
function inverted(x: Nd): Nd {
  const n = x.shape[x.shape.length - 1];
  const data = new Float64Array(x.data.length);
  for (let first = 0; first < data.length; first += n * n) {
    const rows = Array.from({ length: n }, (_, i) => [
      ...x.data.subarray(first + i * n, first + (i + 1) * n),
      ...Array.from({ length: n }, (_, j) => i === j ? 1 : 0),
    ]);
    for (let k = 0; k < n; k++) {
      const [pivot] = rows.slice(k).sort((a, b) => Math.abs(b[k]) - Math.abs(a[k]));
      rows.splice(rows.indexOf(pivot, k), 1);
      rows.splice(k, 0, pivot.map((v) => v / pivot[k]));
      rows.forEach((row, i) => {
        const factor = row[k];
        if (i !== k) rows[k].forEach((v, j) => row[j] -= factor * v);
      });
    }
    rows.forEach((row, i) => data.set(row.slice(n), first + i * n));
  }
  return { shape: x.shape, data };
}

/** Cases for the operations of models but attention. */
export const MODEL_CASES: readonly Case[] = [
  {
    name: "softmax",
    inputs: { x: { shape: [3, 2, 9], data: noise(54, 8).map((v) => 6 * v), gradient: true } },
    build: (_graph, { x }) => softmax(x),
    reference: ({ x }) => softmaxed(x),
  },
  {
    name: "softmax of large numbers",
    inputs: {
      x: {
        shape: [2, 5],
        data: [1e4, 9999, 9998, 0, -1e4, -1e30, -1e30, 3, 4, -1e30],
        gradient: false,
      },
    },
    build: (_graph, { x }) => softmax(x),
    reference: ({ x }) => softmaxed(x),
  },
  {
    name: "softmax of a reshaped value",
    inputs: { x: { shape: [6, 5] } },
    build: (_graph, { x }) => softmax(reshape(x, [2, 3, 5])),
    reference: ({ x }) => softmaxed(reshaped(x, [2, 3, 5])),
  },
  {
    name: "uniform",
    inputs: { seed: { shape: [1], dtype: "i32", data: [-77], gradient: false } },
    build: (graph, { seed }) => uniform(graph, [5, 7], { seed, stream: 3 }),
    reference: () => {
      const numbers = hashes(3, -77);
      return build([5, 7], () => (numbers() >>> 8) * 2 ** -24);
    },
  },
  {
    name: "inverse",
    inputs: { x: { shape: [2, 3, 5, 5], data: noise(150, 21), gradient: true } },
    build: (_graph, { x }) => inverse(add(x, identity(x.graph, 5))),
    reference: ({ x }) => inverted(build(x.shape, (i) => at(x, i) + (i[2] === i[3] ? 2 : 0))),
    tolerance: 5e-6,
  },
  {
    name: "inverse with rows to exchange",
    inputs: { x: { shape: [3, 3], data: [0, 2, 1, 0, 0, 4, -5, 1, 0], gradient: false } },
    build: (_graph, { x }) => inverse(x),
    reference: ({ x }) => inverted(x),
  },
  {
    name: "inverse of a large matrix",
    inputs: { x: { shape: [70, 70], data: noise(4900, 5), gradient: false } },
    build: (_graph, { x }) => inverse(add(x, mul(identity(x.graph, 70), 5))),
    reference: ({ x }) => inverted(build(x.shape, (i) => at(x, i) + (i[0] === i[1] ? 10 : 0))),
    tolerance: 5e-6,
  },
  {
    name: "rmsNorm",
    inputs: { x: { shape: [3, 2, 11] }, weight: { shape: [11] } },
    build: (_graph, { x, weight }) => rmsNorm(x, weight, { epsilon: 1e-2 }),
    reference: ({ x, weight }) =>
      build(
        x.shape,
        (i) => at(x, i) / Math.sqrt(rowStatistics(x, i).square + 1e-2) * at(weight, i),
      ),
    tolerance: 5e-6,
  },
  {
    name: "layerNorm",
    inputs: { x: { shape: [4, 3, 7] }, weight: { shape: [7] }, bias: { shape: [7] } },
    build: (_graph, { x, weight, bias }) => layerNorm(x, { weight, bias, epsilon: 1e-3 }),
    reference: ({ x, weight, bias }) =>
      build(x.shape, (i) => {
        const { mean, square } = rowStatistics(x, i);
        return (at(x, i) - mean) / Math.sqrt(square - mean * mean + 1e-3) * at(weight, i) +
          at(bias, i);
      }),
    tolerance: 5e-6,
  },
  {
    name: "rope",
    inputs: {
      x: { shape: [2, 3, 5, 6] },
      cos: { shape: [2, 3, 3], ...ANGLES },
      sin: { shape: [2, 3, 3], ...ANGLES },
    },
    build: (_graph, { x, cos, sin }) => rope(x, { cos, sin }),
    reference: ({ x, cos, sin }) => rotated(x, cos, sin),
  },
  {
    name: "rope with angles for all samples, backwards",
    inputs: {
      x: { shape: [3, 4, 1, 8] },
      cos: { shape: [1, 4, 4], ...ANGLES },
      sin: { shape: [1, 4, 4], ...ANGLES },
    },
    build: (_graph, { x, cos, sin }) => rope(x, { cos, sin, inverse: true }),
    reference: ({ x, cos, sin }) => rotated(x, cos, sin, true),
  },
  {
    name: "rope of one position",
    inputs: {
      x: { shape: [1, 1, 3, 4] },
      cos: { shape: [1, 1, 2], ...ANGLES },
      sin: { shape: [1, 1, 2], ...ANGLES },
    },
    build: (_graph, { x, cos, sin }) => rope(x, { cos, sin }),
    reference: ({ x, cos, sin }) => rotated(x, cos, sin),
  },
  {
    name: "crossEntropy with an ignored label",
    inputs: {
      logits: { shape: [5, 11], data: noise(55, 2).map((v) => 4 * v), gradient: true },
      labels: { shape: [5], dtype: "i32", data: LABELS },
    },
    build: (_graph, { logits, labels }) => crossEntropy(logits, labels),
    reference: ({ logits }) => losses(logits, LABELS),
  },
  {
    name: "crossEntropy of a certain and a wrong prediction",
    inputs: {
      logits: { shape: [2, 3], data: [60, -60, 0, 60, -60, 0], gradient: true },
      labels: { shape: [2], dtype: "i32", data: [0, 1] },
    },
    build: (_graph, { logits, labels }) => crossEntropy(logits, labels),
    reference: ({ logits }) => losses(logits, [0, 1]),
  },
  {
    name: "crossEntropy of many classes",
    inputs: {
      logits: { shape: [3, 1500], data: noise(4500, 5).map((v) => 3 * v), gradient: false },
      labels: { shape: [3], dtype: "i32", data: [1499, 0, 700] },
    },
    build: (_graph, { logits, labels }) => crossEntropy(logits, labels),
    reference: ({ logits }) => losses(logits, [1499, 0, 700]),
  },
  ...[0.1, 0.5].map((rate): Case => ({
    name: `dropoutMask at a rate of ${rate}`,
    inputs: { x: { shape: [7, 33] }, seed: { shape: [1], dtype: "i32", data: [-123456789] } },
    build: (graph, { x, seed }) => mul(x, dropoutMask(graph, [7, 33], { seed, rate, stream: 5 })),
    reference: ({ x }) => {
      const mask = maskOf([7, 33], -123456789, 5, rate);
      return build(x.shape, (i) => at(x, i) * at(mask, i));
    },
  })),
  {
    name: "dropoutMask of a part of a batch",
    inputs: {
      x: { shape: [3, 33] },
      seed: { shape: [1], dtype: "i32", data: [77] },
      row: { shape: [1], dtype: "i32", data: [4] },
    },
    build: (graph, { x, seed, row }) =>
      mul(x, dropoutMask(graph, [3, 33], { seed, rate: 0.4, stream: 5, firstRow: row })),
    reference: ({ x }) => {
      const mask = maskOf([7, 33], 77, 5, 0.4);
      return build(x.shape, ([i, j]) => at(x, [i, j]) * at(mask, [i + 4, j]));
    },
  },
  {
    name: "dropoutMask of a seed that is computed",
    inputs: { x: { shape: [5, 9] }, seed: { shape: [1], dtype: "i32", data: [41] } },
    build: (graph, { x, seed }) =>
      mul(x, dropoutMask(graph, [5, 9], { seed: add(seed, 1), rate: 0.3, stream: 2 })),
    reference: ({ x }) => {
      const mask = maskOf([5, 9], 42, 2, 0.3);
      return build(x.shape, (i) => at(x, i) * at(mask, i));
    },
  },
];
