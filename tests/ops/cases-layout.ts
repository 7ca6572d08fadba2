/**
 * Cases for the operations that move elements about or add them up.
 *
 * @module
 */
import { mul } from "../../lib/ops/elementwise.ts";
import { cast } from "../../lib/ops/cast.ts";
import { concat } from "../../lib/ops/concat.ts";
import { gather, scatterAdd } from "../../lib/ops/gather.ts";
import { mean, reduceMax, sum } from "../../lib/ops/reduce.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { pad, slice } from "../../lib/ops/slice.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import { noise } from "./cases.ts";
import type { Case } from "./cases.ts";
import { at, build, map, type Nd, permuted, reduced, reshaped } from "./nd.ts";

const plus = (a: number, b: number) => a + b;

function total(x: Nd, axes: readonly number[]): Nd {
  return reduced(x, { axes, fn: plus });
}

function scattered(updates: Nd, ids: readonly number[], rows: number): Nd {
  return build(
    [rows, updates.shape[1]],
    ([r, d]) => ids.reduce((sum, id, n) => id === r ? sum + at(updates, [n, d]) : sum, 0),
  );
}

const UNIQUE = [2, 6, 2, 0, 0];

/** Numbers around 3, whose sum loses digits when it is added up one by one. */
const LARGE = 70_000;
const UNEVEN = 1031 * 7;

const REDUCE: readonly Case[] = [
  {
    name: "sum over the last axis",
    inputs: { x: { shape: [3, 5, 7] } },
    build: (_graph, { x }) => sum(x, { axes: [-1] }),
    reference: ({ x }) => reshaped(total(x, [2]), [3, 5]),
  },
  {
    name: "sum over the first and last axes",
    inputs: { x: { shape: [3, 5, 7] } },
    build: (_graph, { x }) => sum(x, { axes: [0, 2], keepDims: true }),
    reference: ({ x }) => total(x, [0, 2]),
  },
  {
    name: "sum over everything",
    inputs: { x: { shape: [3, 50, 7] } },
    build: (_graph, { x }) => sum(x),
    reference: ({ x }) => reshaped(total(x, [0, 1, 2]), []),
    tolerance: 1e-5,
  },
  {
    name: "a long sum",
    inputs: { x: { shape: [LARGE], data: noise(LARGE, 3).map((v) => 3.1 + v), gradient: false } },
    build: (_graph, { x }) => sum(x),
    reference: ({ x }) => reshaped(total(x, [0]), []),
    tolerance: 5e-7,
  },
  {
    name: "a long sum that cannot be cut evenly",
    inputs: {
      x: { shape: [1031, 7], data: noise(UNEVEN, 4).map((v) => 3.1 + v), gradient: false },
    },
    build: (_graph, { x }) => sum(x, { axes: [0] }),
    reference: ({ x }) => reshaped(total(x, [0]), [7]),
    tolerance: 5e-7,
  },
  {
    name: "a long sum with an axis between",
    inputs: {
      x: { shape: [130, 3, 80], data: noise(31200, 5).map((v) => 3.1 + v), gradient: false },
    },
    build: (_graph, { x }) => sum(x, { axes: [0, 2] }),
    reference: ({ x }) => reshaped(total(x, [0, 2]), [3]),
    tolerance: 5e-7,
  },
  {
    name: "mean",
    inputs: { x: { shape: [5, 6] } },
    build: (_graph, { x }) => mean(mul(x, x), { axes: [0] }),
    reference: ({ x }) => map(reshaped(total(map(x, (v) => v * v), [0]), [6]), (v) => v / 5),
  },
  {
    name: "reduceMax",
    inputs: { x: { shape: [4, 9, 3] } },
    build: (_graph, { x }) => reduceMax(x, { axes: [1] }),
    reference: ({ x }) => reshaped(reduced(x, { axes: [1], fn: Math.max }), [4, 3]),
  },
  {
    name: "sum and maximum of i32",
    inputs: { x: { shape: [2, 5], dtype: "i32", data: [1, 2, 3, 4, 5, -9, 8, -7, 6, -5] } },
    build: (_graph, { x }) =>
      concat([cast(sum(x, { axes: [1] }), "f32"), cast(reduceMax(x, { axes: [1] }), "f32")], {
        axis: 0,
      }),
    reference: () => ({ shape: [4], data: Float64Array.of(15, -7, 5, 8) }),
    tolerance: 0,
  },
];

const IDS = [4, 0, 4, 2, 4, 1];

const MOVE: readonly Case[] = [
  {
    name: "reshape",
    inputs: { x: { shape: [3, 4, 5] } },
    build: (_graph, { x }) => reshape(x, [5, -1]),
    reference: ({ x }) => reshaped(x, [5, 12]),
  },
  {
    name: "transpose of the last two axes",
    inputs: { x: { shape: [2, 3, 5] } },
    build: (_graph, { x }) => transpose(x),
    reference: ({ x }) => permuted(x, [0, 2, 1]),
  },
  {
    name: "transpose in a circle",
    inputs: { x: { shape: [2, 3, 5, 7] } },
    build: (_graph, { x }) => transpose(x, [2, 3, 1, 0]),
    reference: ({ x }) => permuted(x, [2, 3, 1, 0]),
  },
  {
    name: "transpose of axes of length 1",
    inputs: { x: { shape: [1, 4, 1, 6] } },
    build: (_graph, { x }) => mul(transpose(x, [2, 1, 0, 3]), 2),
    reference: ({ x }) => map(reshaped(x, [1, 4, 1, 6]), (v) => 2 * v),
  },
  {
    name: "slice",
    inputs: { x: { shape: [5, 4, 7] } },
    build: (_graph, { x }) => slice(x, { starts: [1, 0, 3], sizes: [3, 4, 2] }),
    reference: ({ x }) => build([3, 4, 2], ([i, j, k]) => at(x, [i + 1, j, k + 3])),
  },
  {
    name: "pad",
    inputs: { x: { shape: [3, 2] } },
    build: (_graph, { x }) => pad(x, { low: [1, 0], high: [2, 3] }),
    reference: ({ x }) =>
      build([6, 5], ([i, j]) => i >= 1 && i < 4 && j < 2 ? at(x, [i - 1, j]) : 0),
  },
  {
    name: "concat",
    inputs: { a: { shape: [2, 3, 2] }, b: { shape: [2, 1, 2] }, c: { shape: [2, 4, 2] } },
    build: (_graph, { a, b, c }) => concat([a, b, c], { axis: 1 }),
    reference: ({ a, b, c }) =>
      build(
        [2, 8, 2],
        ([i, j, k]) => j < 3 ? at(a, [i, j, k]) : j < 4 ? at(b, [i, 0, k]) : at(c, [i, j - 4, k]),
      ),
  },
  {
    name: "concat of i32 and bool-sized parts",
    inputs: {
      a: { shape: [3], dtype: "i32", data: [1, 2, 3] },
      b: { shape: [2], dtype: "i32", data: [-4, 5] },
    },
    build: (_graph, { a, b }) => cast(concat([a, b, a], { axis: 0 }), "f32"),
    reference: () => ({ shape: [8], data: Float64Array.of(1, 2, 3, -4, 5, 1, 2, 3) }),
  },
  {
    name: "gather",
    inputs: { table: { shape: [5, 3] }, ids: { shape: [2, 3], dtype: "i32", data: IDS } },
    build: (_graph, { table, ids }) => gather(table, ids),
    reference: ({ table }) => build([2, 3, 3], ([i, j, d]) => at(table, [IDS[3 * i + j], d])),
  },
  {
    name: "scatterAdd with repeated ids",
    inputs: { updates: { shape: [6, 3] }, ids: { shape: [6], dtype: "i32", data: IDS } },
    build: (_graph, { updates, ids }) => scatterAdd(updates, ids, { rows: 7 }),
    reference: ({ updates }) => scattered(updates, IDS, 7),
  },
  ...[1, 4].map((length): Case => ({
    name: `scatterAdd of ${length} where ids differ, but for zeros`,
    inputs: { updates: { shape: [3, length] }, ids: { shape: [5], dtype: "i32", data: UNIQUE } },
    build: (_graph, { updates, ids }) =>
      scatterAdd(pad(updates, { low: [1, 0], high: [1, 0] }), ids, { rows: 7, unique: true }),
    reference: ({ updates }) => scattered(updates, UNIQUE.slice(1, 4), 7),
  })),
  {
    name: "scatterAdd of many rows",
    inputs: {
      updates: { shape: [900, 16], gradient: false },
      ids: { shape: [900], dtype: "i32", data: Array.from({ length: 900 }, (_, i) => i * 31 % 5) },
    },
    build: (_graph, { updates, ids }) => scatterAdd(updates, ids, { rows: 5 }),
    reference: ({ updates }) =>
      scattered(updates, Array.from({ length: 900 }, (_, i) => i * 31 % 5), 5),
    tolerance: 1e-5,
  },
];

/** Cases for reduce, reshape, transpose, slice, pad, concat, gather and scatterAdd. */
export const LAYOUT_CASES: readonly Case[] = [...REDUCE, ...MOVE];
