/**
 * Matrix products through workgroup memory, for hardware.
 *
 * A workgroup computes a tile of BM × BN outputs. Per round it brings BK steps of both sides into workgroup memory, and uses each element
 * BN or BM times: 64 × 64 tiles do 16 floating-point operations per byte of global memory, 128 × 128 tiles 32. Of workgroup memory an invocation reads two vectors
 * for 16 products with 4 × 4 outputs, four for 64 with 8 × 8, which leaves arithmetic as the limit; the larger tiles come first where there are enough of
 * them to fill a GPU.
 * Where there are too few tiles to fill a GPU (weight gradients of low-rank adapters: small M and N, long K) the sum over K is split between workgroups, and a
 * second dispatch adds the parts in a fixed order.
 *
 * @module
 */
import { foldWorkgroups, type Kernel, type KernelDispatch } from "../lib/ops/kernel-rule.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { type MatmulProblem, type MatmulSide, matrixIndex } from "./matmul-problem.ts";
import { declareOperand, readsFour } from "./operand.ts";
import { opaqueZero, workgroupNumber } from "./wgsl.ts";

/** Sizes of a tiled kernel; all are multiples of 4. */
export interface TileOptions {
  /** Rows of a workgroup's tile. */
  readonly rows: number;
  /** Columns of a workgroup's tile. */
  readonly columns: number;
  /** Steps of k per round. */
  readonly depth: number;
  /** Rows per invocation. */
  readonly threadRows: number;
  /** Columns per invocation. */
  readonly threadColumns: number;
  /** Parts that the sum over k is split into; 1 by default. */
  readonly splits?: number;
}

/** Bytes of workgroup memory that a tiled kernel uses. */
export function tileStorage(options: TileOptions): number {
  return 16 * options.depth * (options.rows / 4 + options.columns / 4 + 2);
}

/** The product with one output tile per workgroup. */
export function tiledMatmul(problem: MatmulProblem, options: TileOptions): Kernel {
  const { rows, columns, depth } = options;
  const size = sizeOf(problem.batch) * problem.m * problem.n;
  const splits = Math.min(options.splits ?? 1, Math.ceil(problem.k / depth));
  const variant = `tiled-${rows}x${columns}${splits > 1 ? `-split-${splits}` : ""}`;
  if (splits === 1) return { variant, dispatches: [tileDispatch(problem, options, 1)] };
  return {
    variant,
    dispatches: [tileDispatch(problem, options, splits), sumDispatch(size, splits)],
    temporaries: [splits * Math.ceil(size / 4) * 16],
  };
}

function tileDispatch(
  problem: MatmulProblem,
  options: TileOptions,
  splits: number,
): KernelDispatch {
  const { m, n, k, batch, a, b } = problem;
  const { rows, columns, depth, threadRows, threadColumns } = options;
  const across = columns / threadColumns, down = rows / threadRows;
  const threads = across * down;
  const tilesM = Math.ceil(m / rows), tilesN = Math.ceil(n / columns);
  const matrices = sizeOf(batch);
  const tiles = matrices * tilesM * tilesN;
  // Every part but the last is whole rounds of `depth`.
  const part = Math.ceil(Math.ceil(k / depth) / splits) * depth;
  const left = loadSide(a, { name: "a", size: m, tile: rows, depth, k, threads, binding: 0 });
  const bindingsA = a.operand.bindings.length;
  const right = loadSide(b, {
    name: "b",
    size: n,
    tile: columns,
    depth,
    k,
    threads,
    binding: bindingsA,
  });
  const strideA = rows / 4 + 1, strideB = columns / 4 + 1;
  const sums: string[] = [], reads: string[] = [], products: string[] = [], stores: string[] = [];
  // Fours of one invocation lie `across` (`down`) fours apart, so that neighbours read neighbouring words of workgroup memory.
  for (let i = 0; i < threadRows / 4; i++) {
    reads.push(`let a${i} = tileA[k * ${strideA}u + ${i * down}u + y];`);
  }
  for (let j = 0; j < threadColumns / 4; j++) {
    reads.push(`let b${j} = tileB[k * ${strideB}u + ${j * across}u + x];`);
  }
  const vector = n % 4 === 0;
  const size = matrices * m * n;
  const padded = Math.ceil(size / 4) * 4;
  const partial = splits > 1;
  for (let i = 0; i < threadRows; i++) {
    const row = `row + (${(i >> 2) * down}u + y) * 4u + ${i & 3}u`;
    stores.push(`  if (${row} < ${m}u) {
    let first = (matrix * ${m}u + ${row}) * ${n}u;`);
    for (let j = 0; j < threadColumns / 4; j++) {
      sums.push(`var sum${i}x${j} = vec4<f32>();`);
      products.push(`sum${i}x${j} += a${i >> 2}.${"xyzw"[i & 3]} * b${j};`);
      const column = `column + (${j * across}u + x) * 4u`;
      if (vector) {
        const value = `sum${i}x${j}`;
        stores.push(
          `    if (${column} < ${n}u) { let at = first + ${column}; ` +
            (partial
              ? `output[(part * ${padded}u + at) / 4u] = ${value}; }`
              : `output[at / 4u] = epilogue4(${value}, at); }`),
        );
      } else {
        for (let c = 0; c < 4; c++) {
          const value = `sum${i}x${j}.${"xyzw"[c]}`;
          stores.push(
            `    if (${column} + ${c}u < ${n}u) { let at = first + ${column} + ${c}u; ` +
              (partial
                ? `output[part * ${padded}u + at] = ${value}; }`
                : `output[at] = epilogue(${value}, at); }`),
          );
        }
      }
    }
    stores.push("  }");
  }
  return {
    source: `${left.declare}${right.declare}
@group(0) @binding(${
      bindingsA + b.operand.bindings.length
    }) var<storage, read_write> output: array<${vector ? "vec4<f32>" : "f32"}>;

// One four of padding per line keeps transposing writes off each other's banks.
var<workgroup> tileA: array<vec4<f32>, ${depth * strideA}>;
var<workgroup> tileB: array<vec4<f32>, ${depth * strideB}>;

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let number = ${workgroupNumber("id")};
  if (number >= ${tiles * splits}u) { return; }
  let tile = number % ${tiles}u;
  let part = number / ${tiles}u;
  let column = (tile % ${tilesN}u) * ${columns}u;
  let row = (tile / ${tilesN}u) % ${tilesM}u * ${rows}u;
  let matrix = tile / ${tilesM * tilesN}u;
  let stackA = ${matrixIndex("matrix", batch, a)} * ${a.operand.lines}u;
  let stackB = ${matrixIndex("matrix", batch, b)} * ${b.operand.lines}u;
  let x = thread % ${across}u;
  let y = thread / ${across}u;
  ${sums.join("\n  ")}
  for (var start = part * ${part}u; start < min(part * ${part}u + ${part}u, ${k}u); start += ${depth}u) {
    ${left.load}
    ${right.load}
    workgroupBarrier();
    for (var at = ${opaqueZero("thread", threads)}; at < ${depth}u; at += 4u) {
      ${
      [0, 1, 2, 3].map((u) =>
        `{ let k = at + ${u}u;
      ${reads.join("\n      ")}
      ${products.join("\n      ")} }`
      ).join("\n      ")
    }
    }
    workgroupBarrier();
  }
${stores.join("\n")}
}
`,
    bindings: [...a.operand.bindings, ...b.operand.bindings, partial ? { temporary: 0 } : "output"],
    workgroups: foldWorkgroups(tiles * splits),
    ...(partial ? {} : { epilogue: true }),
  };
}

/** WGSL that fills a tile [depth, size / 4 + 1] of fours along the output's side. Past the end of k it writes zeros, past the end of the side it repeats. */
function loadSide(
  side: MatmulSide,
  options: {
    readonly name: "a" | "b";
    readonly size: number;
    readonly tile: number;
    readonly depth: number;
    readonly k: number;
    readonly threads: number;
    readonly binding: number;
  },
): { readonly declare: string; readonly load: string } {
  const { operand, kMajor } = side;
  const { name, size, tile, depth, k, threads, binding } = options;
  const access = readsFour(operand) ? "four" : "element";
  const read = `${name}At`;
  const origin = name === "a" ? "row" : "column";
  const stack = name === "a" ? "stackA" : "stackB";
  const into = name === "a" ? "tileA" : "tileB";
  const fours = tile / 4, stride = fours + 1;
  const wholeK = k % depth === 0, wholeSide = size % tile === 0;
  const clamp = (at: string, last: number, whole: boolean) => whole ? at : `min(${at}, ${last}u)`;
  const keep = (value: string, step: string, end: number) =>
    wholeK ? value : `select(vec4<f32>(), ${value}, ${step} < ${end}u)`;
  let units: number, body: string;
  if (access === "four" && kMajor) {
    units = depth * fours;
    body = `let k = unit / ${fours}u;
      let four = unit % ${fours}u;
      let value = ${read}(${stack} + ${clamp("start + k", k - 1, wholeK)}, ${
      clamp(`${origin} / 4u + four`, operand.length / 4 - 1, wholeSide)
    });
      ${into}[k * ${stride}u + four] = ${keep("value", "start + k", k)};`;
  } else if (access === "four") {
    // A block of 4 × 4 per invocation, transposed in registers.
    units = fours * depth / 4;
    const lines = [0, 1, 2, 3].map((i) =>
      `let v${i} = ${read}(${stack} + ${
        clamp(`${origin} + four * 4u + ${i}u`, size - 1, wholeSide)
      }, ${clamp("start / 4u + k", k / 4 - 1, wholeK)});`
    );
    const writes = ["x", "y", "z", "w"].map((c, i) =>
      `${into}[(k * 4u + ${i}u) * ${stride}u + four] = ${
        keep(`vec4<f32>(v0.${c}, v1.${c}, v2.${c}, v3.${c})`, "start / 4u + k", k / 4)
      };`
    );
    body = `let k = unit % ${depth / 4}u;
      let four = unit / ${depth / 4}u;
      ${lines.join("\n      ")}
      ${writes.join("\n      ")}`;
  } else {
    units = depth * fours;
    const at = (i: number) => clamp(`${origin} + four * 4u + ${i}u`, size - 1, wholeSide);
    const step = clamp("start + k", k - 1, wholeK);
    const parts = [0, 1, 2, 3].map((i) =>
      kMajor ? `${read}(${stack} + ${step}, ${at(i)})` : `${read}(${stack} + ${at(i)}, ${step})`
    );
    body = `let k = ${kMajor ? `unit / ${fours}u` : `unit % ${depth}u`};
      let four = ${kMajor ? `unit % ${fours}u` : `unit / ${depth}u`};
      ${into}[k * ${stride}u + four] = ${keep(`vec4<f32>(${parts.join(", ")})`, "start + k", k)};`;
  }
  return {
    declare: declareOperand(operand, { name: read, binding, access }),
    load: `for (var unit = thread; unit < ${units}u; unit += ${threads}u) {
      ${body}
    }`,
  };
}

/** Adds the parts of a split sum. */
function sumDispatch(size: number, splits: number): KernelDispatch {
  const fours = Math.ceil(size / 4);
  const vector = size % 4 === 0;
  return {
    source: `@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<${vector ? "vec4<f32>" : "f32"}>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let four = ${workgroupNumber("id")} * 64u + lane;
  if (four >= ${fours}u) { return; }
  var sum = parts[four];
  for (var part = 1u + ${
      opaqueZero("lane", 64)
    }; part < ${splits}u; part++) { sum += parts[part * ${fours}u + four]; }
  ${
      vector
        ? "output[four] = epilogue4(sum, four * 4u);"
        : `for (var i = 0u; i < min(4u, ${size}u - four * 4u); i++) {
    output[four * 4u + i] = epilogue(sum[i], four * 4u + i);
  }`
    }
}
`,
    bindings: [{ temporary: 0 }, "output"],
    workgroups: foldWorkgroups(Math.ceil(fours / 64)),
    epilogue: true,
  };
}
