/**
 * Matrix products: which kernels for which sizes on which adapter.
 *
 * @module
 */
import { foldWorkgroups, type Kernel, type KernelFeatures } from "../lib/ops/kernel-rule.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { type MatmulProblem, matrixIndex } from "./matmul-problem.ts";
import { registerMatmul } from "./matmul-register.ts";
import { tiledMatmul, type TileOptions, tileStorage } from "./matmul-tiled.ts";
import { isVectorProblem, vectorMatmul } from "./matmul-vector.ts";
import { declareOperand } from "./operand.ts";
import { opaqueZero, workgroupNumber } from "./wgsl.ts";

/** Below this many floating-point operations a launch costs more than the arithmetic, and compiling more than both. */
const SMALL = 1 << 18;

/** Most bytes that a side may take when it is written to a temporary in another order. */
const LARGEST_PACKED = 64 * 2 ** 20;

/** Workgroups under which a GPU of middle size stands idle in part. */
const FILL = 128;

/** Kernels of a product, best guess first. All pass their output through the epilogue. */
export function matmulKernels(
  problem: MatmulProblem,
  features: KernelFeatures,
): readonly Kernel[] {
  const { m, n, k, batch } = problem;
  const flops = 2 * sizeOf(batch) * m * n * k;
  const kernels: Kernel[] = [];
  if (flops < SMALL) kernels.push(plainMatmul(problem));
  else if (isVectorProblem(problem)) kernels.push(vectorMatmul(problem, features));
  if (features.software) {
    if (!kernels.length) kernels.push(registerKernel(problem, flops));
    return kernels;
  }
  if (flops >= SMALL) {
    for (const options of tilesFor(problem)) {
      if (tileStorage(options) <= features.workgroupStorage) {
        kernels.push(tiledMatmul(problem, options));
      }
    }
  }
  return kernels;
}

function registerKernel(problem: MatmulProblem, flops: number): Kernel {
  const { m, n, k, a, b } = problem;
  // A 16 × 16 tile runs 1.4 times as fast as an 8 × 8 one and takes three times as long to compile.
  const large = flops >= 2 ** 25 ? 16 : 8;
  const tile = (size: number) => Math.min(large, Math.ceil(size / 4) * 4);
  const fits = (batch: readonly number[], size: number) =>
    sizeOf(batch) * size * k * 4 <= LARGEST_PACKED;
  return registerMatmul(problem, {
    rows: tile(m),
    columns: tile(n),
    packA: n >= 32 && fits(a.batch, m),
    packB: m >= 32 && fits(b.batch, n),
  });
}

function tilesFor(problem: MatmulProblem): TileOptions[] {
  const { m, n, k, batch } = problem;
  const matrices = sizeOf(batch);
  const tiles: TileOptions[] = [];
  const add = (tile: TileOptions) => {
    const count = matrices * Math.ceil(m / tile.rows) * Math.ceil(n / tile.columns);
    // At least 256 steps of k per part, or the second pass costs more than it saves.
    const splits = Math.min(Math.floor(FILL / count), Math.floor(k / 256), 32);
    tiles.push(splits > 1 ? { ...tile, splits } : tile);
  };
  const square = { rows: 64, columns: 64, depth: 32, threadRows: 4, threadColumns: 4 };
  const wide = { rows: 16, columns: 128, depth: 32, threadRows: 4, threadColumns: 4 };
  const tall = { rows: 128, columns: 16, depth: 32, threadRows: 4, threadColumns: 4 };
  const big = { rows: 128, columns: 128, depth: 8, threadRows: 8, threadColumns: 8 };
  // One side of rank size (adapters): a square tile would compute mostly padding.
  if (m <= 32 && n > m) add(wide);
  else if (n <= 32 && m > n) add(tall);
  else {
    const bigTiles = matrices * Math.floor(m / 128) * Math.floor(n / 128);
    if (bigTiles >= FILL) add(big);
    add(square);
  }
  return tiles;
}

/** One output element per invocation: for small products and any layout. */
export function plainMatmul(problem: MatmulProblem): Kernel {
  const { m, n, k, batch, a, b } = problem;
  const size = sizeOf(batch) * m * n;
  const bindingsA = a.operand.bindings.length;
  const declare = declareOperand(a.operand, { name: "aAt", binding: 0, access: "element" }) +
    declareOperand(b.operand, { name: "bAt", binding: bindingsA, access: "element" });
  return {
    variant: "plain",
    dispatches: [{
      source: `${declare}
@group(0) @binding(${
        bindingsA + b.operand.bindings.length
      }) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let index = ${workgroupNumber("id")} * 64u + lane;
  if (index >= ${size}u) { return; }
  let matrix = index / ${m * n}u;
  let row = (index / ${n}u) % ${m}u;
  let column = index % ${n}u;
  let stackA = ${matrixIndex("matrix", batch, a)} * ${a.operand.lines}u;
  let stackB = ${matrixIndex("matrix", batch, b)} * ${b.operand.lines}u;
  var sum = 0.0;
  for (var k = ${opaqueZero("lane", 64)}; k < ${k}u; k++) {
    sum += ${a.kMajor ? "aAt(stackA + k, row)" : "aAt(stackA + row, k)"} * ${
        b.kMajor ? "bAt(stackB + k, column)" : "bAt(stackB + column, k)"
      };
  }
  output[index] = epilogue(sum, index);
}
`,
      bindings: [...a.operand.bindings, ...b.operand.bindings, "output"],
      workgroups: foldWorkgroups(Math.ceil(size / 64)),
      epilogue: true,
    }],
  };
}
