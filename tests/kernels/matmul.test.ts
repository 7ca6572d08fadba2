import { matmulKernels, plainMatmul } from "../../kernels/matmul.ts";
import type { MatmulProblem } from "../../kernels/matmul-problem.ts";
import { registerMatmul } from "../../kernels/matmul-register.ts";
import { tiledMatmul } from "../../kernels/matmul-tiled.ts";
import { isVectorProblem, vectorMatmul } from "../../kernels/matmul-vector.ts";
import type { OperandFormat } from "../../kernels/operand.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { assertNear, openGpu, randoms } from "./run-kernel.ts";

interface Case {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly format?: OperandFormat;
  readonly batch?: readonly number[];
  readonly batchA?: readonly number[];
  readonly batchB?: readonly number[];
}

function problemOf(c: Case): MatmulProblem {
  const { m, n, k, transposeA = false, transposeB = false, batch = [] } = c;
  const { batchA = batch, batchB = batch, format = "f32" } = c;
  const side = (lines: number, length: number, at: number, stored: OperandFormat) => ({
    format: stored,
    lines,
    length,
    bindings: typeof stored === "string"
      ? [at]
      : stored.offsets
      ? [at, at + 1, at + 2]
      : [at, at + 1],
  });
  return {
    m,
    n,
    k,
    batch,
    a: {
      operand: transposeA ? side(k, m, 0, "f32") : side(m, k, 0, "f32"),
      kMajor: transposeA,
      batch: batchA,
    },
    b: {
      operand: transposeB ? side(n, k, 1, format) : side(k, n, 1, format),
      kMajor: !transposeB,
      batch: batchB,
    },
  };
}

const f32Bits = new Float32Array(1), u32Bits = new Uint32Array(f32Bits.buffer);

/** The stored form of numbers near these, and the numbers that it holds. */
function store(
  values: Float32Array,
  format: OperandFormat,
): readonly [readonly ArrayBufferView[], Float32Array] {
  if (typeof format !== "string") {
    const { bits, block } = format;
    const blocks = values.length / block;
    const scales = randoms(blocks, 11).map((v) => (v + 2) / 2 ** bits);
    const offsets = randoms(blocks, 13);
    const zero = 2 ** (bits - 1);
    const q = Uint8Array.from(values, (v) => Math.floor((v + 1) * zero));
    const packed = bits === 8
      ? q
      : Uint8Array.from({ length: q.length / 2 }, (_, i) => q[2 * i] | (q[2 * i + 1] << 4));
    const held = Float32Array.from(q, (v, i) => {
      const b = Math.floor(i / block);
      return (v - zero) * scales[b] + (format.offsets ? offsets[b] : 0);
    });
    return [format.offsets ? [packed, scales, offsets] : [packed, scales], held];
  }
  if (format === "bf16") {
    const bits = Uint16Array.from(values, (v) => {
      f32Bits[0] = v;
      return u32Bits[0] >>> 16;
    });
    return [
      [bits],
      Float32Array.from(bits, (b) => {
        u32Bits[0] = b << 16;
        return f32Bits[0];
      }),
    ];
  }
  if (format === "f16") {
    // Eighths between −1 and 1 are exact.
    const rounded = values.map((v) => Math.round(v * 8) / 8);
    const half = (v: number) => {
      f32Bits[0] = v;
      const [x] = u32Bits;
      return v === 0 ? 0 : ((x >>> 16) & 0x8000) | ((((x >>> 23) & 255) - 112) << 10) |
        ((x >>> 13) & 1023);
    };
    return [[Uint16Array.from(rounded, half)], rounded];
  }
  return [[values], values];
}

function reference(c: Case, a: Float32Array, b: Float32Array): Float64Array {
  const { m, n, k, transposeA, transposeB, batch = [] } = c;
  const { batchA = batch, batchB = batch } = c;
  const matrices = sizeOf(batch);
  const pick = (index: number, own: readonly number[]) => {
    let at = 0, outer = 1, inner = 1;
    for (let i = 0; i < batch.length; i++) {
      const d = batch[batch.length - 1 - i], mine = own[own.length - 1 - i] ?? 1;
      if (mine !== 1) at += (Math.floor(index / outer) % d) * inner;
      outer *= d;
      inner *= mine;
    }
    return at;
  };
  const y = new Float64Array(matrices * m * n);
  for (let s = 0; s < matrices; s++) {
    const fromA = pick(s, batchA) * m * k, fromB = pick(s, batchB) * n * k;
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let q = 0; q < k; q++) {
          sum += a[fromA + (transposeA ? q * m + i : i * k + q)] *
            b[fromB + (transposeB ? j * k + q : q * n + j)];
        }
        y[(s * m + i) * n + j] = sum;
      }
    }
  }
  return y;
}

const FLAGS = [[false, false], [false, true], [true, false], [true, true]] as const;

async function check(c: Case, kernels: (problem: MatmulProblem) => readonly Kernel[]) {
  using gpu = await openGpu({ epilogue: "indexed" });
  const problem = problemOf(c);
  const { batch = [] } = c;
  const a = randoms(sizeOf(c.batchA ?? batch) * c.m * c.k, 3);
  const [stored, b] = store(randoms(sizeOf(c.batchB ?? batch) * c.n * c.k, 5), c.format ?? "f32");
  const expected = reference(c, a, b).map((v, i) => 2 * v + 1 + i % 7);
  for (const kernel of kernels(problem)) {
    const y = new Float32Array(
      await gpu.run(kernel, { inputs: [a, ...stored], output: expected.length * 4 }),
    );
    assertNear(y, expected, {
      tolerance: 1e-5,
      what: `${kernel.variant} ${JSON.stringify(c)}`,
    });
  }
}

const register = (p: MatmulProblem) => [
  registerMatmul(p, { rows: 8, columns: 4, packA: false, packB: false }),
  registerMatmul(p, { rows: 8, columns: 8, packA: true, packB: true }),
];
const tiled = (p: MatmulProblem) => [
  tiledMatmul(p, { rows: 64, columns: 64, depth: 32, threadRows: 4, threadColumns: 4 }),
  tiledMatmul(p, { rows: 16, columns: 32, depth: 8, threadRows: 8, threadColumns: 4, splits: 3 }),
];

for (const [transposeA, transposeB] of FLAGS) {
  const name = `${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`;
  Deno.test(`matmul kernels agree with f64 sums: ${name}, odd sizes`, () =>
    check({ m: 37, n: 29, k: 53, transposeA, transposeB }, (p) => [
      plainMatmul(p),
      ...register(p),
      ...tiled(p),
    ]));
  Deno.test(`matmul kernels agree with f64 sums: ${name}, vectors of 4 that leave a rest of the tile`, () =>
    check(
      { m: 44, n: 68, k: 36, transposeA, transposeB, batch: [2, 3], batchB: [3] },
      (p) => [...register(p), ...tiled(p)],
    ));
}

for (const format of ["f16", "bf16"] as const) {
  for (const transposeB of [false, true]) {
    Deno.test(`matmul kernels read ${format} weights${transposeB ? ", transposed" : ""}`, async () => {
      await check({ m: 24, n: 40, k: 56, transposeB, format }, (p) => [
        plainMatmul(p),
        ...register(p),
        ...tiled(p),
      ]);
      await check({ m: 5, n: 7, k: 9, transposeB, format }, (p) => [
        plainMatmul(p),
        ...register(p),
        ...tiled(p),
      ]);
    });
  }
}

for (
  const [bits, block, offsets] of [[4, 32, true], [4, 16, false], [8, 16, true], [
    8,
    32,
    false,
  ]] as const
) {
  for (const transposeB of [false, true]) {
    const format = { bits, block, offsets };
    const text = `${bits} bits, blocks of ${block}${offsets ? ", offsets" : ""}`;
    Deno.test(`matmul kernels read quantized weights: ${text}${transposeB ? ", transposed" : ""}`, () =>
      check({ m: 22, n: 64, k: 96, transposeB, format }, (p) => [
        plainMatmul(p),
        ...register(p),
        tiled(p)[0],
      ]));
    Deno.test(`vector kernels read quantized weights: ${text}${transposeB ? ", transposed" : ""}`, () =>
      check({ m: 2, n: 288, k: 96, transposeB, format }, (p) => [
        vectorMatmul(p, { software: true }),
        vectorMatmul(p, { software: false }),
      ]));
  }
}

Deno.test("matmul broadcasts leading dimensions of either side", () =>
  check(
    { m: 6, n: 8, k: 10, batch: [2, 3, 2], batchA: [2, 1, 2], batchB: [3, 1] },
    (p) => [plainMatmul(p), ...register(p), ...tiled(p)],
  ));

for (const format of ["f32", "f16", "bf16"] as const) {
  for (const transposeB of [false, true]) {
    Deno.test(`vector kernels: ${format}${transposeB ? ", transposed" : ""}`, async () => {
      for (
        const c of [
          { m: 1, n: 292, k: 72, transposeB, format },
          { m: 3, n: 264, k: 40, transposeB, format },
          { m: 4, n: 36, k: 12, transposeB, format, batch: [2] },
        ]
      ) {
        const problem = problemOf(c);
        if (!isVectorProblem(problem)) throw new Error("not a vector problem");
        await check(c, (p) => [
          vectorMatmul(p, { software: true }),
          vectorMatmul(p, { software: false }),
        ]);
      }
    });
  }
}

Deno.test("tiled kernels with 8 × 8 outputs per invocation", () =>
  check({ m: 140, n: 132, k: 40, transposeB: true }, (p) => [
    tiledMatmul(p, { rows: 128, columns: 128, depth: 16, threadRows: 8, threadColumns: 8 }),
  ]));

Deno.test("what matmulKernels chooses is right for large, thin and split products", async () => {
  using gpu = await openGpu();
  for (
    const c of [
      { m: 150, n: 130, k: 97 },
      { m: 200, n: 8, k: 576, transposeB: true },
      { m: 8, n: 200, k: 1024, transposeA: true },
      { m: 1, n: 576, k: 1000, transposeB: true },
    ]
  ) {
    for (const software of [true, false]) {
      // The least workgroup memory that WebGPU promises.
      await check(
        c,
        (p) => matmulKernels(p, { ...gpu.features, workgroupStorage: 16384, software }),
      );
    }
  }
});
