/**
 * Cases for attention, its gradient and the cache.
 *
 * @module
 */
import { add, mul } from "../../lib/ops/elementwise.ts";
import { attention } from "../../lib/ops/attention.ts";
import { cacheUpdate } from "../../lib/ops/cache-update.ts";
import type { Arrays, Case } from "./cases.ts";
import { at, build, type Nd } from "./nd.ts";

interface Setting {
  readonly causal: boolean;
  readonly window?: number | null;
  readonly scale?: number;
}

interface Sizes {
  readonly b: number;
  readonly t: number;
  readonly s: number;
  readonly h: number;
  readonly g: number;
  readonly d: number;
}

/** Scores of one row, and which keys it sees. */
function rowScores(
  { q, k, query, key, offset }: Arrays,
  setting: Setting,
  [b, t, h]: readonly number[],
): number[] {
  const [, , heads, d] = q.shape, [, s, groups] = k.shape;
  const scale = setting.scale ?? 1 / Math.sqrt(d), last = offset.data[0] + t;
  return Array.from({ length: s }, (_, j) => {
    const segment = at(query, [b, t]);
    const seen = segment !== 0 && segment === at(key, [b, j]) &&
      (!setting.causal || j <= last) && (setting.window == null || j > last - setting.window);
    if (!seen) return -Infinity;
    let sum = 0;
    for (let i = 0; i < d; i++) {
      sum += at(q, [b, t, h, i]) * at(k, [b, j, Math.floor(h / (heads / groups)), i]);
    }
    return sum * scale;
  });
}

function attended(inputs: Arrays, setting: Setting): Nd {
  const { q, k, v, mask } = inputs;
  const share = q.shape[2] / k.shape[2];
  let weights: readonly number[] = [];
  // Indices come in order, so the weights of a row are computed at its first element.
  return build(q.shape, ([b, t, h, d]) => {
    if (d === 0) weights = rowWeights(rowScores(inputs, setting, [b, t, h]));
    const y = weights.reduce((x, p, j) => x + p * at(v, [b, j, Math.floor(h / share), d]), 0);
    return y * (mask ? at(mask, [b, t, 1, 1]) : 1);
  });
}

/** Softmax; zeros where no key is seen, which is unspecified and which cases multiply away. */
function rowWeights(scores: readonly number[]): readonly number[] {
  const largest = Math.max(...scores);
  if (largest === -Infinity) return scores.map(() => 0);
  const e = scores.map((x) => Math.exp(x - largest));
  const total = e.reduce((x, y) => x + y);
  return e.map((x) => x / total);
}

function logSums(inputs: Arrays, setting: Setting): Nd {
  const { q } = inputs;
  return build(q.shape.slice(0, 3), (index) => {
    const scores = rowScores(inputs, setting, index);
    return Math.log(scores.reduce((x, y) => x + Math.exp(y), 0));
  });
}

function inputsOf(
  { b, t, s, h, g, d }: Sizes,
  segments: {
    readonly query?: readonly number[];
    readonly key?: readonly number[];
    readonly offset?: number;
  },
): Case["inputs"] {
  const ones = (n: number) => new Array<number>(n).fill(1);
  return {
    q: { shape: [b, t, h, d] },
    k: { shape: [b, s, g, d] },
    v: { shape: [b, s, g, d] },
    query: { shape: [b, t], dtype: "i32", data: segments.query ?? ones(b * t) },
    key: { shape: [b, s], dtype: "i32", data: segments.key ?? ones(b * s) },
    offset: { shape: [1], dtype: "i32", data: [segments.offset ?? 0] },
  };
}

function attentionCase(
  name: string,
  sizes: Sizes,
  options: Setting & Parameters<typeof inputsOf>[1],
): Case {
  const { causal, window, scale } = options;
  const inputs = inputsOf(sizes, options);
  const padded = options.query?.includes(0);
  const { b, t } = sizes;
  return {
    name,
    inputs: padded
      ? {
        ...inputs,
        mask: {
          shape: [b, t, 1, 1],
          data: options.query!.map((x) => x ? 1 : 0),
          gradient: false,
        },
      }
      : inputs,
    build: (_graph, { q, k, v, query, key, offset, mask }) => {
      const y = attention(q, {
        k,
        v,
        querySegments: query,
        keySegments: key,
        offset,
        causal,
        window,
        scale,
      });
      return padded ? mul(y, mask) : y;
    },
    reference: (arrays) => attended(arrays, options),
    tolerance: 5e-6,
  };
}

/** Rows `offset` … of the cache replaced. */
function cacheWith(cache: Nd, rows: Nd, offset: number): Nd {
  const count = rows.shape[1];
  return build(
    cache.shape,
    ([b, s, h, d]) =>
      s >= offset && s < offset + count ? at(rows, [b, s - offset, h, d]) : at(cache, [b, s, h, d]),
  );
}

function cachedCase(name: string, sizes: Sizes, offset: number, window?: number): Case {
  const { b, t, s, h, g, d } = sizes;
  const key = Array.from(
    { length: b * s },
    (_, i) => i % s < offset + t && i % (s + 1) !== 1 ? 1 : 0,
  );
  const data = { gradient: false } as const;
  const setting = { causal: true, window };
  return {
    name,
    inputs: {
      q: { shape: [b, t, h, d], ...data },
      k: { shape: [b, s, g, d], ...data },
      v: { shape: [b, s, g, d], ...data },
      newK: { shape: [b, t, g, d], ...data },
      newV: { shape: [b, t, g, d], ...data },
      query: { shape: [b, t], dtype: "i32", data: new Array<number>(b * t).fill(1) },
      key: { shape: [b, s], dtype: "i32", data: key },
      offset: { shape: [1], dtype: "i32", data: [offset] },
    },
    build: (_graph, { q, k, v, newK, newV, query, key, offset }) =>
      attention(q, {
        k: cacheUpdate(k, newK, { offset }),
        v: cacheUpdate(v, newV, { offset }),
        querySegments: query,
        keySegments: key,
        offset,
        ...setting,
      }),
    reference: (arrays) =>
      attended({
        ...arrays,
        k: cacheWith(arrays.k, arrays.newK, offset),
        v: cacheWith(arrays.v, arrays.newV, offset),
      }, setting),
    tolerance: 5e-6,
  };
}

const SMALL: Sizes = { b: 2, t: 5, s: 5, h: 4, g: 2, d: 3 };

/** Cases for attention, attentionLogSum and cacheUpdate; gradients use attentionGradQ, K and V. */
export const ATTENTION_CASES: readonly Case[] = [
  attentionCase("causal attention with grouped heads", SMALL, { causal: true }),
  attentionCase("attention in both directions", { ...SMALL, g: 4, s: 7 }, {
    causal: false,
    scale: 0.7,
  }),
  attentionCase("attention of one group", { ...SMALL, g: 1 }, { causal: true, scale: 1.3 }),
  attentionCase("attention to a window", { ...SMALL, t: 6, s: 9 }, {
    causal: true,
    window: 3,
    offset: 3,
  }),
  attentionCase("attention of one query", { b: 2, t: 1, s: 7, h: 6, g: 2, d: 4 }, {
    causal: true,
    offset: 4,
  }),
  attentionCase("attention of one sample", { b: 1, t: 3, s: 6, h: 4, g: 2, d: 5 }, {
    causal: true,
    offset: 2,
  }),
  attentionCase("attention with padding on the left", SMALL, {
    causal: true,
    query: [0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
    key: [0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
  }),
  attentionCase("attention within packed samples", SMALL, {
    causal: true,
    query: [1, 1, 2, 2, 3, 7, 7, 7, 4, 0],
    key: [1, 1, 2, 2, 3, 7, 7, 7, 4, 0],
  }),
  attentionCase("attention across tiles", { b: 1, t: 70, s: 70, h: 2, g: 1, d: 8 }, {
    causal: true,
  }),
  {
    name: "attentionLogSum",
    inputs: {
      ...inputsOf(SMALL, {}),
      v: { shape: [1], gradient: false },
      q: { shape: [2, 5, 4, 3], gradient: false },
      k: { shape: [2, 5, 2, 3], gradient: false },
    },
    build: (graph, { q, k, v, query, key, offset }) =>
      add(
        graph.node("attentionLogSum", [q, k, query, key, offset], {
          causal: true,
          window: null,
          scale: 0.6,
        }, { shape: [2, 5, 4], dtype: "f32" }),
        v,
      ),
    reference: (arrays) => {
      const sums = logSums(arrays, { causal: true, scale: 0.6 });
      return { shape: sums.shape, data: sums.data.map((x) => x + arrays.v.data[0]) };
    },
    tolerance: 5e-6,
  },
  {
    name: "cacheUpdate",
    inputs: {
      cache: { shape: [2, 6, 3, 2], gradient: false },
      rows: { shape: [2, 2, 3, 2], gradient: false },
      offset: { shape: [1], dtype: "i32", data: [3] },
    },
    build: (_graph, { cache, rows, offset }) => cacheUpdate(cache, rows, { offset }),
    reference: ({ cache, rows }) => cacheWith(cache, rows, 3),
    tolerance: 0,
  },
  {
    name: "cacheUpdate of everything",
    inputs: {
      cache: { shape: [1, 3, 2, 2], gradient: false },
      rows: { shape: [1, 3, 2, 2], gradient: false },
      offset: { shape: [1], dtype: "i32", data: [0] },
    },
    build: (_graph, { cache, rows, offset }) => cacheUpdate(cache, rows, { offset }),
    reference: ({ rows }) => rows,
    tolerance: 0,
  },
  cachedCase("attention over a cache that gets one row", { b: 2, t: 1, s: 9, h: 4, g: 2, d: 3 }, 5),
  cachedCase("attention over a cache of one sample", { b: 1, t: 2, s: 12, h: 4, g: 2, d: 3 }, 4),
  cachedCase("attention to a window of a cache", { b: 2, t: 2, s: 11, h: 2, g: 1, d: 4 }, 7, 4),
  cachedCase("attention over a cache that is filled", { b: 2, t: 5, s: 8, h: 4, g: 2, d: 3 }, 0),
];
