/**
 * The kernels that the device writes itself: fused elementwise ones, reductions and layout, in the forms for processors and for GPUs.
 *
 * @module
 */
import { assert } from "@std/assert";
import {
  add,
  cos,
  div,
  erf,
  exp,
  log,
  mul,
  pow,
  sigmoid,
  sin,
  tanh,
} from "../../lib/ops/elementwise.ts";
import { broadcast } from "../../lib/ops/broadcast.ts";
import { concat } from "../../lib/ops/concat.ts";
import { input } from "../../lib/ops/input.ts";
import { reduceMax, sum } from "../../lib/ops/reduce.ts";
import { pad, slice } from "../../lib/ops/slice.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import { createGraph, type Graph, type Value } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { interpret } from "../device/interpret.ts";
import { kernelOf } from "./fused-kernel.ts";
import { type Gpu, openGpu } from "./run-kernel.ts";

const f32 = (g: Graph, name: string, shape: readonly number[]) =>
  input(g, name, { shape, dtype: "f32" });

/** Numbers between 0.1 and 1, so that sums do not cancel out. */
const noise = (i: number, n: number) => Math.fround(0.55 + 0.45 * Math.sin(i * 1.618 + n));

/** Runs a value's kernel on inputs of noise, and gives both what comes out and what an interpreter says. */
async function both(
  gpu: Gpu,
  build: (g: Graph) => Value,
  options: { readonly software: boolean; readonly contents?: (i: number, n: number) => number },
): Promise<{ actual: Float32Array; expected: readonly number[] }> {
  const { software, contents = noise } = options;
  const node = build(createGraph());
  const { kernel, inputs } = kernelOf(node, { ...gpu.features, software });
  const data = inputs.map((v, n) =>
    Float32Array.from({ length: sizeOf(v.shape) }, (_, i) => contents(i, n))
  );
  const size = sizeOf(node.shape);
  const bytes = await gpu.run(kernel, { inputs: data, output: Math.ceil(size / 4) * 16 });
  const named = Object.fromEntries(
    inputs.map((v, n) => [v.attributes.name as string, [...data[n]]]),
  );
  return {
    actual: new Float32Array(bytes).subarray(0, size),
    expected: interpret(programOf({ y: node }), named).y,
  };
}

const last = { axes: [-1], keepDims: true } as const;
const first = { axes: [0], keepDims: true } as const;

const CASES: Readonly<Record<string, (g: Graph) => Value>> = {
  "a sum of everything": (g) => sum(f32(g, "x", [70000])),
  "a sum of an odd number of elements": (g) => sum(f32(g, "x", [33333])),
  "rows of 5": (g) => sum(f32(g, "x", [37, 5]), last),
  "rows of 64": (g) => sum(f32(g, "x", [33, 64]), last),
  "rows of 577": (g) => sum(f32(g, "x", [19, 577]), last),
  "rows of 2048": (g) => reduceMax(f32(g, "x", [3, 2048]), last),
  "two rows of 40000": (g) => sum(f32(g, "x", [2, 40000]), last),
  "columns of 7": (g) => sum(f32(g, "x", [7, 33]), first),
  "columns of 300": (g) => sum(f32(g, "x", [300, 36]), first),
  "columns of 5001": (g) => reduceMax(f32(g, "x", [5001, 3]), first),
  "a middle axis": (g) => sum(f32(g, "x", [6, 130, 20]), { axes: [1], keepDims: true }),
  "two neighbouring axes": (g) => sum(f32(g, "x", [6, 13, 5, 8]), { axes: [1, 2], keepDims: true }),
  "products of broadcasts": (g) => {
    const x = f32(g, "x", [40, 24]), r = f32(g, "r", [24]), c = f32(g, "c", [40, 1]);
    return sum(mul(mul(x, r), c), last);
  },
  "a function of a sum": (g) => {
    const x = f32(g, "x", [40, 96]);
    return div(1, add(sum(mul(x, x), last), f32(g, "e", [40, 1])));
  },
  "columns of a transposed value": (g) => sum(transpose(f32(g, "x", [24, 100])), first),
  "a transpose": (g) => transpose(f32(g, "x", [50, 70])),
  "a transpose of the inner axes": (g) => transpose(f32(g, "x", [3, 33, 17])),
  "a transpose of the outer axes": (g) => transpose(f32(g, "x", [20, 18, 4]), [1, 0, 2]),
  "all axes turned around": (g) => transpose(f32(g, "x", [20, 3, 2, 18]), [3, 2, 1, 0]),
  "columns joined": (g) => concat([f32(g, "x", [9, 4]), f32(g, "y", [9, 8])], { axis: 1 }),
  "odd columns joined": (g) =>
    concat([f32(g, "x", [5, 3, 2]), f32(g, "y", [5, 4, 2]), f32(g, "x", [5, 3, 2])], { axis: 1 }),
  "a box with zeros around": (g) => {
    const box = slice(f32(g, "x", [9, 11, 8]), { starts: [2, 1, 4], sizes: [5, 7, 4] });
    return pad(tanh(box), { low: [1, 0, 2], high: [0, 3, 2] });
  },
  "broadcasts of every kind": (g) => {
    const x = f32(g, "x", [4, 6, 8]), a = f32(g, "a", [8]), b = f32(g, "b", [6, 1]);
    const c = broadcast(f32(g, "c", [4, 1, 8]), [4, 6, 8]), d = f32(g, "d", [1]);
    return mul(add(add(add(x, a), mul(b, c)), d), broadcast(f32(g, "e", [4, 1, 1]), [4, 6, 8]));
  },
};

Deno.test("fused kernels compute what an interpreter does, in both forms", async () => {
  using gpu = await openGpu();
  for (const [name, build] of Object.entries(CASES)) {
    for (const software of [true, false]) {
      const { actual, expected } = await both(gpu, build, { software });
      const scale = expected.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
      expected.forEach((e, i) =>
        assert(
          Math.abs(actual[i] - e) <= 2e-6 * Math.max(scale, 1),
          `${name} (${software ? "processor" : "GPU"}): element ${i} is ${actual[i]}, not ${e}`,
        )
      );
    }
  }
});

Deno.test("long sums stay accurate", async () => {
  using gpu = await openGpu();
  // A running sum in f32 would be off by about 1e-3.
  const contents = (i: number) => Math.fround(1 + (i % 7) * 1e-3);
  for (const shape of [[1 << 21], [3, 300001], [100003, 4]]) {
    for (const software of [true, false]) {
      const axes = shape.length === 1 ? [0] : shape[0] === 3 ? [1] : [0];
      const build = (g: Graph) => sum(f32(g, "x", shape), { axes, keepDims: true });
      const { actual, expected } = await both(gpu, build, { software, contents });
      expected.forEach((e, i) =>
        assert(Math.abs(actual[i] / e - 1) < 6e-7, `[${shape}]: ${actual[i]} is not ${e}`)
      );
    }
  }
});

Deno.test("scalar functions are accurate to a few units in the last place", async () => {
  using gpu = await openGpu();
  const N = 40000;
  const span = (low: number, high: number) => (i: number) =>
    Math.fround(low + (high - low) * (i + 0.5) / N);
  const cases: [string, (x: Value) => Value, (i: number) => number, "relative" | "absolute"][] = [
    ["exp", exp, span(-80, 80), "relative"],
    ["log", log, span(1e-3, 3), "relative"],
    ["log of large numbers", log, span(1, 1e6), "relative"],
    ["tanh", tanh, span(-12, 12), "relative"],
    ["tanh near 0", tanh, span(-1e-3, 1e-3), "relative"],
    ["sigmoid", sigmoid, span(-40, 40), "relative"],
    ["erf", erf, span(-5, 5), "relative"],
    ["sin", sin, span(-4000, 4000), "absolute"],
    ["cos", cos, span(-30, 30), "absolute"],
    ["a power", (x) => pow(x, 2.5), span(0, 40), "relative"],
    ["a power of almost 1", (x) => pow(Math.fround(0.999), x), span(1, 5000), "relative"],
    ["a power of negative numbers", (x) => pow(x, 3), span(-4, 4), "relative"],
  ];
  for (const [name, fn, contents, kind] of cases) {
    const build = (g: Graph) => fn(f32(g, "x", [N]));
    const { actual, expected } = await both(gpu, build, { software: true, contents });
    expected.forEach((e, i) => {
      const error = Math.abs(actual[i] - e) / (kind === "relative" ? Math.abs(e) : 1);
      const allowed = name.startsWith("a power") ? 2e-6 : 5e-7;
      assert(error < allowed, `${name}(${contents(i)}) is ${actual[i]}, not ${e}`);
    });
  }
});

Deno.test("infinities and NaN come through", async () => {
  using gpu = await openGpu();
  const special = [Infinity, -Infinity, NaN, 0, -1e30, 1e30, -0.5, 2];
  const run = async (fn: (x: Value) => Value) =>
    (await both(gpu, (g) => fn(f32(g, "x", [8])), {
      software: true,
      contents: (i) => Math.fround(special[i]),
    })).actual;
  const same = (actual: Float32Array, expected: readonly number[]) =>
    expected.forEach((e, i) => {
      const close = Object.is(actual[i], e) || Math.abs(actual[i] - e) <= 1e-6 * Math.abs(e) ||
        (actual[i] === 0 && e === 0);
      assert(close, `element ${i} (of ${special[i]}) is ${actual[i]}, not ${e}`);
    });
  same(await run(exp), [Infinity, 0, NaN, 1, 0, Infinity, Math.exp(-0.5), Math.exp(2)]);
  same(await run(sigmoid), [1, 0, NaN, 0.5, 0, 1, 1 / (1 + Math.exp(0.5)), 1 / (1 + Math.exp(-2))]);
  same(await run(erf), [1, -1, NaN, 0, -1, 1, -0.5204998778130465, 0.9953222650189527]);
  const logs = await run(log);
  same(logs.subarray(0, 1), [Infinity]);
  same(logs.subarray(3, 4), [-Infinity]);
  assert(Number.isNaN(logs[2]));
  // A filled mask, as attention biases are made.
  const masked = await both(gpu, (g) => reduceMax(add(f32(g, "x", [4, 3]), -Infinity), last), {
    software: true,
  });
  same(masked.actual, masked.expected);
});
