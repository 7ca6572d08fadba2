import { decodeAttention, isDecodeProblem } from "../../kernels/attention-decode.ts";
import { flashAttention } from "../../kernels/attention-flash.ts";
import type { AttentionPart, AttentionProblem } from "../../kernels/attention-problem.ts";
import { registerAttention } from "../../kernels/attention-register.ts";
import { assertNear, openGpu, randoms } from "./run-kernel.ts";

interface Case extends Partial<AttentionProblem> {
  readonly name: string;
  readonly offset?: number;
  /** Padding on the left and on the right of the keys (and queries, where there are as many). */
  readonly padding?: readonly [number, number];
  /** Two samples in each sequence. */
  readonly packed?: boolean;
}

const CASES: readonly Case[] = [
  {
    name: "causal, grouped, odd sizes, packed samples",
    queries: 37,
    keys: 37,
    causal: true,
    depth: 10,
    packed: true,
  },
  {
    name: "no mask, more keys than queries",
    queries: 21,
    keys: 45,
    depth: 64,
    heads: 2,
    groups: 2,
  },
  {
    name: "padding, window, more than one tile",
    queries: 70,
    keys: 70,
    causal: true,
    window: 9,
    padding: [5, 3],
    depth: 36,
    heads: 2,
  },
  {
    name: "cache longer than what is in it",
    queries: 5,
    keys: 150,
    offset: 67,
    causal: true,
    depth: 20,
  },
];

function problemOf(c: Case): AttentionProblem {
  return {
    batch: 2,
    queries: 1,
    keys: 1,
    heads: 6,
    groups: 2,
    depth: 8,
    causal: false,
    window: null,
    scale: 0.37,
    ...c,
  };
}

interface Data {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly g: Float32Array;
  readonly querySegments: Int32Array;
  readonly keySegments: Int32Array;
  readonly offset: Int32Array;
}

function dataOf(c: Case, p: AttentionProblem): Data {
  const { batch, queries, keys, heads, groups, depth } = p;
  const [left, right] = c.padding ?? [0, 0];
  const segments = (n: number) =>
    Int32Array.from({ length: batch * n }, (_, i) => {
      const at = i % n;
      // Only the second sequence is padded.
      if (i >= n && (at < left || at >= n - right)) return 0;
      return c.packed && at >= n / 3 ? 2 : 1;
    });
  return {
    q: randoms(batch * queries * heads * depth, 1).map((x) => 2 * x),
    k: randoms(batch * keys * groups * depth, 2).map((x) => 2 * x),
    v: randoms(batch * keys * groups * depth, 3),
    g: randoms(batch * queries * heads * depth, 4),
    querySegments: segments(queries),
    keySegments: segments(keys),
    offset: Int32Array.of(c.offset ?? 0),
  };
}

/** All parts in f64. Rows that see no key give zeros. */
function reference(p: AttentionProblem, data: Data) {
  const { batch, queries, keys, heads, groups, depth, causal, window, scale } = p;
  const { q, k, v, g } = data;
  const output = new Float64Array(q.length), gradQ = new Float64Array(q.length);
  const gradK = new Float64Array(k.length), gradV = new Float64Array(k.length);
  const logSum = new Float64Array(batch * queries * heads), delta = logSum.slice();
  const seesAny = new Uint8Array(logSum.length);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < queries; t++) {
      for (let h = 0; h < heads; h++) {
        const row = (b * queries + t) * heads + h;
        const keyRow = (s: number) =>
          ((b * keys + s) * groups + Math.floor(h / (heads / groups))) * depth;
        const place = data.offset[0] + t;
        const seen: number[] = [];
        for (let s = 0; s < keys; s++) {
          const segment = data.querySegments[b * queries + t];
          if (segment === 0 || segment !== data.keySegments[b * keys + s]) continue;
          if ((causal || window !== null) && s > place) continue;
          if (window !== null && s <= place - window) continue;
          seen.push(s);
        }
        if (!seen.length) continue;
        seesAny[row] = 1;
        const dot = (a: Float32Array, i: number, c: Float32Array, j: number) => {
          let sum = 0;
          for (let d = 0; d < depth; d++) sum += a[i + d] * c[j + d];
          return sum;
        };
        const scores = seen.map((s) => dot(q, row * depth, k, keyRow(s)) * scale);
        const top = Math.max(...scores);
        const sum = scores.reduce((n, x) => n + Math.exp(x - top), 0);
        logSum[row] = top + Math.log(sum);
        const weights = scores.map((x) => Math.exp(x - logSum[row]));
        seen.forEach((s, i) => {
          for (let d = 0; d < depth; d++) {
            output[row * depth + d] += weights[i] * v[keyRow(s) + d];
            gradV[keyRow(s) + d] += weights[i] * g[row * depth + d];
          }
        });
        for (let d = 0; d < depth; d++) {
          delta[row] += g[row * depth + d] * output[row * depth + d];
        }
        seen.forEach((s, i) => {
          const x = weights[i] * (dot(g, row * depth, v, keyRow(s)) - delta[row]) * scale;
          for (let d = 0; d < depth; d++) {
            gradQ[row * depth + d] += x * k[keyRow(s) + d];
            gradK[keyRow(s) + d] += x * q[row * depth + d];
          }
        });
      }
    }
  }
  return { output, gradQ, gradK, gradV, logSum, delta, seesAny };
}

const PARTS: readonly AttentionPart[] = ["output", "logSum", "gradQ", "gradK", "gradV"];

for (const c of CASES) {
  for (const variant of ["flash", "register"] as const) {
    Deno.test(`attention and its gradients, ${variant}: ${c.name}`, async () => {
      using gpu = await openGpu();
      const problem = problemOf(c), data = dataOf(c, problem);
      const expected = reference(problem, data);
      const { q, k, v, g, querySegments, keySegments, offset } = data;
      const logSum = Float32Array.from(expected.logSum, (x, i) => expected.seesAny[i] ? x : 1e30);
      const rest = [querySegments, keySegments, offset];
      for (const part of PARTS) {
        const kernel = variant === "flash"
          ? flashAttention(problem, part)
          : registerAttention(problem, part);
        const inputs = part === "logSum"
          ? [q, k, ...rest]
          : part === "output"
          ? [q, k, v, ...rest]
          : [q, k, v, ...rest, g, logSum, Float32Array.from(expected.delta)];
        const want = expected[part];
        const y = new Float32Array(await gpu.run(kernel, { inputs, output: want.length * 4 }))
          .subarray(0, want.length);
        if (part === "logSum") {
          expected.seesAny.forEach((seen, i) => {
            if (!seen) {
              if (!(y[i] >= 1e29 && Number.isFinite(y[i]))) throw new Error(`logSum is ${y[i]}`);
              y[i] = 0;
            }
          });
        }
        assertNear(y, want, { tolerance: 1e-5, what: `${variant} ${part}` });
      }
    });
  }
}

for (
  const c of [
    { name: "one query", queries: 1, keys: 200, offset: 130, causal: true, depth: 64 },
    { name: "two queries, window", queries: 2, keys: 170, offset: 100, window: 30, depth: 20 },
    { name: "one query, padding", queries: 1, keys: 100, padding: [0, 37], depth: 128, heads: 2 },
  ] satisfies Case[]
) {
  Deno.test(`attention in runs of keys: ${c.name}`, async () => {
    using gpu = await openGpu();
    const problem = problemOf(c);
    if (!isDecodeProblem(problem)) throw new Error("not meant for it");
    const data = dataOf({ ...c }, problem);
    data.querySegments.fill(1);
    const { output } = reference(problem, data);
    const { q, k, v, querySegments, keySegments, offset } = data;
    const y = await gpu.run(decodeAttention(problem), {
      inputs: [q, k, v, querySegments, keySegments, offset],
      output: output.length * 4,
    });
    assertNear(new Float32Array(y), output, { tolerance: 1e-5, what: "decode" });
  });
}
