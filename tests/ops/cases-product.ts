/**
 * Cases for matrix products, alone and with what devices may fuse them with.
 *
 * @module
 */
import { add, mul } from "../../lib/ops/elementwise.ts";
import { silu } from "../../lib/ops/functions.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import type { Case } from "./cases.ts";
import { at, build, map, permuted, product, zip } from "./nd.ts";

const FORMS = [
  { transposeA: false, transposeB: false },
  { transposeA: false, transposeB: true },
  { transposeA: true, transposeB: false },
  { transposeA: true, transposeB: true },
];

function formCase(
  name: string,
  batchA: readonly number[],
  batchB: readonly number[],
  m: number,
  k: number,
  n: number,
) {
  return FORMS.map((form): Case => ({
    name: `${name}${form.transposeA ? ", a transposed" : ""}${
      form.transposeB ? ", b transposed" : ""
    }`,
    inputs: {
      a: { shape: [...batchA, ...(form.transposeA ? [k, m] : [m, k])] },
      b: { shape: [...batchB, ...(form.transposeB ? [n, k] : [k, n])] },
    },
    build: (_graph, { a, b }) => matmul(a, b, form),
    reference: ({ a, b }) => product(a, b, form),
    tolerance: 5e-6,
  }));
}

/** Cases for matmul. */
export const PRODUCT_CASES: readonly Case[] = [
  ...formCase("matmul", [], [], 5, 7, 3),
  ...formCase("matmul of one row", [], [], 1, 33, 9),
  ...formCase("batched matmul", [2, 3], [2, 3], 3, 5, 4),
  ...formCase("matmul with a broadcast batch", [2, 1], [3], 3, 2, 5),
  {
    name: "matmul of a batch with one matrix",
    inputs: { a: { shape: [2, 3, 4] }, b: { shape: [5, 4] } },
    build: (_graph, { a, b }) => matmul(a, b, { transposeB: true }),
    reference: ({ a, b }) => product(a, b, { transposeB: true }),
    tolerance: 5e-6,
  },
  {
    name: "matmul beyond one tile",
    inputs: { a: { shape: [70, 67], gradient: false }, b: { shape: [65, 67], gradient: false } },
    build: (_graph, { a, b }) => matmul(a, b, { transposeB: true }),
    reference: ({ a, b }) => product(a, b, { transposeB: true }),
    tolerance: 5e-6,
  },
  ...(["f16", "bf16"] as const).map((dtype): Case => ({
    name: `matmul with a weight in ${dtype}`,
    inputs: { a: { shape: [3, 9] }, b: { shape: [6, 9], dtype } },
    build: (_graph, { a, b }) => matmul(a, b, { transposeB: true }),
    reference: ({ a, b }) => product(a, b, { transposeB: true }),
    tolerance: 5e-6,
  })),
  {
    name: "a linear layer with a bias",
    inputs: { x: { shape: [2, 3, 4] }, w: { shape: [5, 4] }, bias: { shape: [5] } },
    build: (_graph, { x, w, bias }) => add(matmul(x, w, { transposeB: true }), bias),
    reference: ({ x, w, bias }) => zip(product(x, w, { transposeB: true }), bias, (a, b) => a + b),
    tolerance: 5e-6,
  },
  {
    name: "a linear layer with a low-rank part",
    inputs: {
      x: { shape: [2, 3, 4] },
      w: { shape: [5, 4] },
      a: { shape: [2, 4] },
      b: { shape: [5, 2] },
    },
    build: (_graph, { x, w, a, b }) => {
      const low = matmul(matmul(x, a, { transposeB: true }), b, { transposeB: true });
      return silu(add(matmul(x, w, { transposeB: true }), mul(low, 1.75)));
    },
    reference: ({ x, w, a, b }) => {
      const t = { transposeB: true };
      const y = zip(
        product(x, w, t),
        product(product(x, a, t), b, t),
        (base, low) => base + 1.75 * low,
      );
      return map(y, (v) => v / (1 + Math.exp(-v)));
    },
    tolerance: 5e-6,
  },
  {
    name: "a scaled product that is used twice",
    inputs: { a: { shape: [3, 4] }, b: { shape: [4, 3] } },
    build: (_graph, { a, b }) => {
      const p = matmul(a, b);
      return add(mul(mul(p, 0.5), -3), mul(p, p));
    },
    reference: ({ a, b }) => map(product(a, b), (p) => -1.5 * p + p * p),
    tolerance: 5e-6,
  },
  {
    name: "a sum of two products",
    inputs: {
      a: { shape: [3, 4] },
      b: { shape: [4, 5] },
      c: { shape: [2, 3] },
      d: { shape: [5, 2] },
    },
    build: (_graph, { a, b, c, d }) =>
      add(
        matmul(a, b),
        matmul(c, d, { transposeA: true, transposeB: true }),
      ),
    reference: ({ a, b, c, d }) =>
      zip(
        product(a, b),
        product(c, d, { transposeA: true, transposeB: true }),
        (x, y) => x + y,
      ),
    tolerance: 5e-6,
  },
  {
    name: "a product of transposed values",
    inputs: { a: { shape: [3, 5] }, b: { shape: [2, 3, 4] } },
    build: (_graph, { a, b }) => matmul(transpose(b), transpose(a), { transposeB: true }),
    reference: ({ a, b }) =>
      product(permuted(b, [0, 2, 1]), permuted(a, [1, 0]), { transposeB: true }),
    tolerance: 5e-6,
  },
  {
    name: "a product of heads of one sample",
    inputs: { q: { shape: [1, 5, 2, 3] }, k: { shape: [1, 7, 2, 3] } },
    build: (_graph, { q, k }) =>
      mul(
        matmul(transpose(q, [0, 2, 1, 3]), transpose(k, [0, 2, 1, 3]), { transposeB: true }),
        0.3,
      ),
    reference: ({ q, k }) =>
      build([1, 2, 5, 7], ([, h, i, j]) => {
        let sum = 0;
        for (let d = 0; d < 3; d++) sum += at(q, [0, i, h, d]) * at(k, [0, j, h, d]);
        return 0.3 * sum;
      }),
    tolerance: 5e-6,
  },
];
