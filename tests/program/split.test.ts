import { assert, assertEquals } from "@std/assert";
import { storageBytes } from "../../kernels/wgsl.ts";
import { createWebGpuDevice } from "../../lib/device/webgpu/mod.ts";
import { add, mul } from "../../lib/ops/elementwise.ts";
import { crossEntropy } from "../../lib/ops/cross-entropy.ts";
import { dropoutMask } from "../../lib/ops/dropout-mask.ts";
import { silu } from "../../lib/ops/functions.ts";
import { gather } from "../../lib/ops/gather.ts";
import { gatherQuantized } from "../../lib/ops/gather-quantized.ts";
import { input, type InputSpec } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { matmulQuantized } from "../../lib/ops/matmul-quantized.ts";
import { mean, reduceMax, sum } from "../../lib/ops/reduce.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { rmsNorm } from "../../lib/ops/rms-norm.ts";
import { softmax } from "../../lib/ops/softmax.ts";
import type { Graph, Value } from "../../lib/ops/value.ts";
import { gradients } from "../../lib/program/grad.ts";
import { lower } from "../../lib/program/lower.ts";
import { printProgram, trace } from "../../lib/program/program.ts";
import { splitLarge } from "../../lib/program/split.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";

const LIMIT = 16384;

/** Inputs by name, and a program of them; each case has a value that takes more than the limit. */
interface Case {
  readonly inputs: Readonly<Record<string, InputSpec>>;
  readonly build: (g: Graph, v: Readonly<Record<string, Value>>) => Record<string, Value>;
}

const f32 = (...shape: number[]): InputSpec => ({ shape, dtype: "f32" });
const ids = (...shape: number[]): InputSpec => ({ shape, dtype: "i32" });

const CASES: Readonly<Record<string, Case>> = {
  "a linear layer with a large weight, and its gradients": {
    inputs: { x: f32(5, 32), w: f32(256, 32), k: f32(5, 256) },
    build: (_g, { x, w, k }) => {
      const y = matmul(x, w, { transposeB: true });
      const [gx, gw] = gradients(sum(mul(y, k)), [x, w]);
      return { y, gx, gw };
    },
  },
  "a product with a large matrix as it lies": {
    inputs: { x: f32(6, 192), w: f32(192, 64) },
    build: (_g, { x, w }) => ({
      y: matmul(x, w),
      z: matmul(w, x, { transposeA: true, transposeB: true }),
    }),
  },
  "a product with a large result": {
    inputs: { a: f32(128, 16), b: f32(64, 16) },
    build: (_g, { a, b }) => ({ y: add(matmul(a, b, { transposeB: true }), 1) }),
  },
  "a batch of products": {
    inputs: { a: f32(128, 8, 16), b: f32(128, 16, 8) },
    build: (_g, { a, b }) => ({ y: matmul(a, b) }),
  },
  "an embedding with a large table, and its gradient": {
    inputs: { table: f32(300, 64), tokens: ids(9), k: f32(9, 64) },
    build: (_g, { table, tokens, k }) => {
      const y = gather(table, tokens);
      return { y, g: gradients(sum(mul(y, k)), [table])[0] };
    },
  },
  "a large lookup": {
    inputs: { table: f32(50, 64), tokens: ids(128) },
    build: (_g, { table, tokens }) => ({ y: mul(gather(table, tokens), 2) }),
  },
  "a loss over large logits, and its gradient": {
    inputs: { x: f32(64, 8), w: f32(128, 8), labels: ids(64) },
    build: (_g, { x, w, labels }) => {
      const loss = mean(crossEntropy(matmul(x, w, { transposeB: true }), labels));
      const [gx, gw] = gradients(loss, [x, w]);
      return { loss, gx, gw };
    },
  },
  "elementwise chains, with broadcasts and a mask": {
    inputs: { x: f32(4, 64, 32), row: f32(32), column: f32(64, 1), seed: ids(1) },
    build: (g, { x, row, column, seed }) => {
      const mask = dropoutMask(g, [4, 64, 32], { seed, rate: 0.25, stream: 3 });
      return { y: mul(silu(add(mul(x, column), row)), mask) };
    },
  },
  "sums and maxima along each axis": {
    inputs: { x: f32(4, 64, 32) },
    build: (_g, { x }) => ({
      all: sum(x),
      first: sum(x, { axes: [0] }),
      middle: reduceMax(x, { axes: [1] }),
      last: sum(mul(x, x), { axes: [2] }),
      ends: sum(x, { axes: [0, 2] }),
      top: reduceMax(x),
    }),
  },
  "rows: softmax and norms": {
    inputs: { x: f32(2, 64, 64), w: f32(64) },
    build: (_g, { x, w }) => ({
      y: softmax(rmsNorm(x, w, { epsilon: 1e-5 })),
      z: reshape(softmax(x), [128, 64]),
    }),
  },
  "a quantized weight": {
    inputs: {
      x: f32(7, 128),
      packed: { shape: [384, 64], dtype: "u8", role: "weight" },
      scales: { shape: [384, 4], dtype: "f32", role: "weight" },
      tokens: ids(11),
      g: f32(7, 384),
    },
    build: (_graph, { x, packed, scales, tokens, g }) => {
      const weight = { packed, scales, bits: 4, block: 32 } as const;
      return {
        y: matmulQuantized(x, weight, { transposeB: true }),
        back: matmulQuantized(g, weight),
        rows: gatherQuantized(weight, tokens),
      };
    },
  },
};

function contents(name: string, { shape, dtype }: InputSpec): Tensor {
  const size = sizeOf(shape);
  const noise = (i: number) => Math.sin(i * 12.9898 + name.length * 78.233) * 43758.5453 % 1;
  if (dtype === "u8") {
    return tensor(Uint8Array.from({ length: size }, (_, i) => i * 73 % 256), { shape });
  }
  if (dtype === "i32") {
    const values = Int32Array.from({ length: size }, (_, i) => size === 1 ? 7 : i * 29 % 50);
    return tensor(values, { shape });
  }
  return tensor(Float32Array.from({ length: size }, (_, i) => noise(i)), { shape });
}

for (const [name, { inputs, build }] of Object.entries(CASES)) {
  Deno.test({
    name: `${name} is split into rows and gives the same`,
    fn: async () => {
      const program = trace((g) =>
        build(g, Object.fromEntries(Object.entries(inputs).map(([n, s]) => [n, input(g, n, s)])))
      );
      const lowered = lower(program);
      const split = splitLarge(lowered, { maxBytes: LIMIT, alignment: 256 });
      assert(
        lowered.nodes.some((v) => storageBytes(v.dtype, sizeOf(v.shape)) > LIMIT),
        "nothing is too large",
      );
      assert(split.nodes.length > lowered.nodes.length, printProgram(split));
      const tensors = Object.fromEntries(
        Object.entries(inputs).map(([n, s]) => [n, contents(n, s)]),
      );
      using whole = await createWebGpuDevice({ tune: false });
      using small = await createWebGpuDevice({ tune: false, maxBindingBytes: LIMIT, debug: true });
      const expected = await (await whole.compile(program)).run(tensors);
      const got = await (await small.compile(program)).run(tensors);
      for (const key of Object.keys(expected)) {
        assertEquals(got[key].shape, expected[key].shape);
        const a = await toFloat32(got[key]), e = await toFloat32(expected[key]);
        const scale = e.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
        assert(scale > 0, `${key} is zero`);
        e.forEach((v, i) =>
          assert(Math.abs(a[i] - v) <= 2e-6 * scale, `${key}[${i}] is ${a[i]}, not ${v}`)
        );
      }
    },
  });
}

Deno.test("a program without large values stays as it is", () => {
  const program = lower(trace((g) => ({ y: silu(input(g, "x", f32(8, 8))) })));
  assertEquals(splitLarge(program, { maxBytes: LIMIT, alignment: 256 }), program);
});
