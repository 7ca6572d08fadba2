/**
 * Matrix products: which kernels for which sizes on which adapter.
 *
 * @module
 */
import { itemDispatch, type Kernel, type KernelFeatures } from "./kernel.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { type MatmulProblem, matrixIndex, tilePlace } from "./matmul-problem.ts";
import { registerMatmul } from "./matmul-register.ts";
import { tiledMatmul, type TileOptions, tileStorage } from "./matmul-tiled.ts";
import { isVectorProblem, vectorMatmul } from "./matmul-vector.ts";
import { declareOperand } from "./operand.ts";
import { createSizes } from "./sizes.ts";

/** Below this many floating-point operations a launch costs more than the arithmetic; a processor, which compiles slowly, takes longer to make other kernels. */
const SMALL = { hardware: 1 << 14, software: 1 << 18 };

/** Most bytes that a side may take when it is written to a temporary in another order. */
const LARGEST_PACKED = 64 * 2 ** 20;

/** Workgroups under which a GPU of middle size stands idle in part. */
const FILL = 128;

/** Steps of k that are worth a workgroup of their own, with the second pass that adds the parts. */
const LEAST_STEPS = 64;

/** Steps of k over which one invocation takes too long for an output, however small the product. */
const LONG_SUM = 2048;

/** Kernels of a product, best guess first. All pass their output through the epilogue. */
export function matmulKernels(
  problem: MatmulProblem,
  features: KernelFeatures,
): readonly Kernel[] {
  const { m, n, k, batch } = problem;
  const flops = 2 * sizeOf(batch) * m * n * k;
  const small = features.software ? SMALL.software : SMALL.hardware;
  if (flops < small && (features.software || k <= LONG_SUM)) return [plainMatmul(problem)];
  if (isVectorProblem(problem)) return [vectorMatmul(problem, features)];
  if (features.software) return [registerKernel(problem, flops)];
  return tilesFor(problem).map((tile) => {
    let { depth } = tile;
    while (depth > 4 && tileStorage(problem, { ...tile, depth }) > features.workgroupStorage) {
      depth /= 2;
    }
    const { rows, columns } = tile;
    const count = sizeOf(batch) * Math.ceil(m / rows) * Math.ceil(n / columns);
    const splits = Math.min(Math.floor(FILL / count), Math.floor(k / LEAST_STEPS), 32);
    return tiledMatmul(problem, { ...tile, depth, splits: Math.max(splits, 1) });
  });
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

function tilesFor({ m, n, batch }: MatmulProblem): TileOptions[] {
  const four = { threadRows: 4, threadColumns: 4 };
  const square = { rows: 64, columns: 64, depth: 32, ...four };
  const big = { rows: 128, columns: 128, depth: 16, threadRows: 8, threadColumns: 8 };
  // One side of the size of an adapter's rank: a square tile would compute mostly padding. Each size more would be another set of pipelines.
  const thin = (size: number) => size <= 8 ? 8 : 32;
  if (m <= 32 && n > m) return [{ rows: thin(m), columns: 64, depth: 32, ...four }];
  if (n <= 32) return [{ rows: 64, columns: thin(n), depth: 32, ...four }];
  const bigTiles = sizeOf(batch) * Math.ceil(m / 128) * Math.ceil(n / 128);
  return bigTiles >= FILL ? [big, square] : [square];
}

/** One output element per invocation: for small products and any layout. */
export function plainMatmul(problem: MatmulProblem): Kernel {
  const { m, n, k, batch, a, b } = problem;
  const size = sizeOf(batch) * m * n;
  const bindingsA = a.operand.bindings.length;
  const sizes = createSizes();
  const declare = declareOperand(a.operand, { name: "aAt", binding: 0, access: "element", sizes }) +
    declareOperand(b.operand, { name: "bAt", binding: bindingsA, access: "element", sizes });
  const place = tilePlace("index", { down: m, across: n, matrices: sizeOf(batch) }, sizes);
  return {
    variant: "plain",
    dispatches: [itemDispatch({
      declare: `${declare}
@group(0) @binding(${
        bindingsA + b.operand.bindings.length
      }) var<storage, read_write> output: array<f32>;`,
      count: size,
      sizes,
      bindings: [...a.operand.bindings, ...b.operand.bindings, "output"],
      epilogue: true,
      body: `let matrix = ${place.matrix};
  let row = ${place.row};
  let column = ${place.column};
  let stackA = ${matrixIndex(batch, a, sizes)} * ${sizes.u32(a.operand.lines)};
  let stackB = ${matrixIndex(batch, b, sizes)} * ${sizes.u32(b.operand.lines)};
  var sum = 0.0;
  for (var k = 0u; k < ${sizes.u32(k)}; k++) {
    sum += ${a.kMajor ? "aAt(stackA + k, row)" : "aAt(stackA + row, k)"} * ${
        b.kMajor ? "bAt(stackB + k, column)" : "bAt(stackB + column, k)"
      };
  }
  output[index] = epilogue(sum, index);`,
    })],
  };
}
