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
import {
  foldWorkgroups,
  itemDispatch,
  type Kernel,
  type KernelDispatch,
  workgroupNumber,
} from "./kernel.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { type MatmulProblem, type MatmulSide, matrixIndex, tilePlace } from "./matmul-problem.ts";
import { declareOperand, readsFour } from "./operand.ts";
import { createSizes, type Sizes } from "./sizes.ts";
import { opaqueZero, pick } from "./wgsl.ts";

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
export function tileStorage({ a, b }: MatmulProblem, options: TileOptions): number {
  const { rows, columns, depth } = options;
  return 16 * (tileFours(a, rows, depth) + tileFours(b, columns, depth));
}

/** Fours of a tile in workgroup memory: lines of the output's side per step of k, or lines of k per row. One four of padding per line keeps neighbours off each other's banks. */
function tileFours({ kMajor }: MatmulSide, size: number, depth: number): number {
  return kMajor ? depth * (size / 4 + 1) : size * (depth / 4 + 1);
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
  const sizes = createSizes();
  const steps = sizes.u32(k), height = sizes.u32(m), width = sizes.u32(n);
  const frame = { depth, steps, threads, sizes };
  const left = tileSide(a, {
    ...frame,
    name: "a",
    size: height,
    tile: rows,
    own: { fours: threadRows / 4, spread: down, at: "y" },
    binding: 0,
  });
  const bindingsA = a.operand.bindings.length;
  const right = tileSide(b, {
    ...frame,
    name: "b",
    size: width,
    tile: columns,
    own: { fours: threadColumns / 4, spread: across, at: "x" },
    binding: bindingsA,
  });
  const byTiles = sizes.divisor(tiles, tiles * splits);
  const place = tilePlace("tile", { down: tilesM, across: tilesN, matrices }, sizes);
  const share = sizes.u32(part);
  const sums: string[] = [], products: string[] = [], stores: string[] = [];
  const vector = n % 4 === 0;
  const size = matrices * m * n;
  const padded = sizes.u32(Math.ceil(size / 4) * 4);
  const partial = splits > 1;
  for (let i = 0; i < threadRows; i++) {
    for (let j = 0; j < threadColumns / 4; j++) {
      sums.push(`var sum${i}x${j} = vec4<f32>();`);
      for (let u = 0; u < 4; u++) {
        products.push(`sum${i}x${j} += ${left.element(i, u)} * ${right.four(j, u)};`);
      }
    }
  }
  for (let j = 0; j < threadColumns / 4; j++) {
    const column = `column + (${j * across}u + x) * 4u`;
    const store = (at: string, value: string, four: boolean) =>
      partial
        ? `output[(part * ${padded} + ${at})${four ? " / 4u" : ""}] = ${value};`
        : four
        ? `output[${at} / 4u] = epilogue4(${value}, ${at});`
        : `output[${at}] = epilogue(${value}, ${at});`;
    stores.push(`let value${j} = ${pick((i) => `sum${i}x${j}`, 0, threadRows)};`);
    if (vector) {
      stores.push(
        `if (${column} < ${width}) { let at = first + ${column}; ${
          store("at", `value${j}`, true)
        } }`,
      );
      continue;
    }
    for (let c = 0; c < 4; c++) {
      const place = `${column} + ${c}u`;
      const value = `value${j}.${"xyzw"[c]}`;
      stores.push(
        `if (${place} < ${width}) { let at = first + ${place}; ${store("at", value, false)} }`,
      );
    }
  }
  return {
    source: `${left.declare}${right.declare}
@group(0) @binding(${
      bindingsA + b.operand.bindings.length
    }) var<storage, read_write> output: array<${vector ? "vec4<f32>" : "f32"}>;

var<workgroup> tileA: array<vec4<f32>, ${tileFours(a, rows, depth)}>;
var<workgroup> tileB: array<vec4<f32>, ${tileFours(b, columns, depth)}>;

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let number = ${workgroupNumber("id")};
  if (number >= ${sizes.u32(tiles * splits)}) { return; }
  ${
      partial
        ? `let tile = ${byTiles.remainder("number")};
  let begin = ${byTiles.quotient("number")} * ${share};
  let end = min(begin + ${share}, ${steps});
  let part = ${byTiles.quotient("number")};`
        : `let tile = number;
  let begin = 0u;
  let end = ${steps};`
    }
  let column = ${place.column} * ${columns}u;
  let row = ${place.row} * ${rows}u;
  let matrix = ${place.matrix};
  let stackA = ${matrixIndex(batch, a, sizes)} * ${sizes.u32(a.operand.lines)};
  let stackB = ${matrixIndex(batch, b, sizes)} * ${sizes.u32(b.operand.lines)};
  let x = thread % ${across}u;
  let y = thread / ${across}u;
  ${sums.join("\n  ")}
  for (var start = begin; start < end; start += ${depth}u) {
    ${left.load}
    ${right.load}
    workgroupBarrier();
    for (var at = ${opaqueZero("thread", threads)}; at < ${depth / 4}u; at++) {
      ${[...left.reads, ...right.reads, ...products].join("\n      ")}
    }
    workgroupBarrier();
  }
  // One store for all rows, as what is fused after the product stands in each.
  for (var i = ${opaqueZero("thread", threads)}; i < ${threadRows}u; i++) {
    let line = row + (i / 4u * ${down}u + y) * 4u + i % 4u;
    if (line >= ${height}) { break; }
    let first = (matrix * ${height} + line) * ${width};
    ${stores.join("\n    ")}
  }
}
`,
    sizes,
    bindings: [...a.operand.bindings, ...b.operand.bindings, partial ? { temporary: 0 } : "output"],
    workgroups: foldWorkgroups(tiles * splits),
    ...(partial ? {} : { epilogue: true }),
  };
}

/** One side of a product in workgroup memory. */
interface TileSide {
  readonly declare: string;
  /** WGSL that fills the tile. Past the end of k it writes zeros, past the end of the side it repeats what is there. */
  readonly load: string;
  /** WGSL that reads what an invocation needs for the four steps of k from `at * 4u` on. */
  readonly reads: readonly string[];
  /** WGSL of the invocation's element number `i` at step `u` of the four. */
  element(i: number, u: number): string;
  /** WGSL of the invocation's four number `j` at step `u`. */
  four(j: number, u: number): string;
}

function tileSide(
  side: MatmulSide,
  options: {
    readonly name: "a" | "b";
    /** WGSL of the length of the side, and of the sum. */
    readonly size: string;
    readonly steps: string;
    readonly tile: number;
    readonly depth: number;
    readonly threads: number;
    /** Fours of one invocation: how many, how far apart, and the place of the first. */
    readonly own: { readonly fours: number; readonly spread: number; readonly at: string };
    readonly binding: number;
    readonly sizes: Sizes;
  },
): TileSide {
  const { operand, kMajor } = side;
  const { name, size, steps, tile, depth, threads, own, binding, sizes } = options;
  const access = readsFour(operand) ? "four" : "element";
  const read = `${name}At`;
  const [origin, stack, into] = name === "a"
    ? ["row", "stackA", "tileA"]
    : ["column", "stackB", "tileB"];
  const fours = kMajor ? tile / 4 : depth / 4, pitch = fours + 1;
  const clamp = (at: string, end: string) => `min(${at}, ${end} - 1u)`;
  const four = (text: (i: number) => string) => `vec4<f32>(${[0, 1, 2, 3].map(text).join(", ")})`;
  let line: string, value: string;
  if (kMajor) {
    line = "line";
    const step = `${stack} + ${clamp("start + line", steps)}`;
    const found = access === "four"
      ? `${read}(${step}, ${clamp(`${origin} / 4u + four`, sizes.u32(operand.length / 4))})`
      : four((i) => `${read}(${step}, ${clamp(`${origin} + four * 4u + ${i}u`, size)})`);
    value = `select(vec4<f32>(), ${found}, start + line < ${steps})`;
  } else {
    // Rows lie so that the first, second … of neighbouring fours of rows are neighbours, as they are read together.
    line = `(line % 4u * ${tile / 4}u + line / 4u)`;
    const row = `${stack} + ${clamp(`${origin} + line`, size)}`;
    const step = (i: number) => `start + four * 4u + ${i}u`;
    value = access === "four"
      ? `select(vec4<f32>(), ${read}(${row}, ${clamp("start / 4u + four", `${steps} / 4u`)}), ${
        step(0)
      } < ${steps})`
      : `select(vec4<f32>(), ${
        four((i) => `${read}(${row}, ${clamp(step(i), steps)})`)
      }, vec4<bool>(${[0, 1, 2, 3].map((i) => `${step(i)} < ${steps}`).join(", ")}))`;
  }
  const numbers = Array.from({ length: own.fours }, (_, f) => f);
  const reads = [0, 1, 2, 3].flatMap((u) =>
    numbers.map((f) =>
      kMajor
        ? `let ${name}${u}x${f} = ${into}[(at * 4u + ${u}u) * ${pitch}u + ${
          f * own.spread
        }u + ${own.at}];`
        : `let ${name}${u}x${f} = ${into}[(${
          u * tile / 4 + f * own.spread
        }u + ${own.at}) * ${pitch}u + at];`
    )
  );
  const of = "xyzw";
  return {
    declare: declareOperand(operand, { name: read, binding, access, sizes }),
    load: `for (var unit = thread; unit < ${
      (kMajor ? depth : tile) * fours
    }u; unit += ${threads}u) {
      let line = unit / ${fours}u;
      let four = unit % ${fours}u;
      ${into}[${line} * ${pitch}u + four] = ${value};
    }`,
    reads,
    element: (i, u) =>
      kMajor ? `${name}${u}x${i >> 2}.${of[i & 3]}` : `${name}${i & 3}x${i >> 2}.${of[u]}`,
    four: (j, u) => kMajor ? `${name}${u}x${j}` : four((c) => `${name}${c}x${j}.${of[u]}`),
  };
}

/** Adds the parts of a split sum. */
function sumDispatch(size: number, splits: number): KernelDispatch {
  const fours = Math.ceil(size / 4);
  const vector = size % 4 === 0;
  const sizes = createSizes();
  const pitch = sizes.u32(fours);
  return itemDispatch({
    declare: `@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<${vector ? "vec4<f32>" : "f32"}>;
`,
    count: fours,
    sizes,
    bindings: [{ temporary: 0 }, "output"],
    epilogue: true,
    body: `var sum = parts[index];
  for (var part = 1u; part < ${
      sizes.u32(splits)
    }; part++) { sum += parts[part * ${pitch} + index]; }
  ${
      vector
        ? "output[index] = epilogue4(sum, index * 4u);"
        : `for (var i = 0u; i < min(4u, ${sizes.u32(size)} - index * 4u); i++) {
    output[index * 4u + i] = epilogue(sum[i], index * 4u + i);
  }`
    }`,
  });
}
