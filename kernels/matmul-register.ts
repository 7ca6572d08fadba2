/**
 * Matrix products without workgroup memory: each invocation keeps a tile of the output in private memory and adds one outer product per
 * step of k.
 *
 * Why it exists: a software adapter runs the lanes of a SIMD register as invocations. There a barrier saves and restores every one of them, a storage load is
 * done lane by lane (about 30 instructions for each lane's `vec4`, 14 for a scalar) and a product with its sum is 5 instructions for all 8 lanes. So arithmetic is cheap and loads are
 * dear: a 16×16 tile that reads 16-byte vectors on both sides does 8 instructions of loading per product, a 4×4 one does 32. The K loop must
 * stay small enough for the instruction cache, so it is not unrolled over k: both operands are read with the k-th line contiguous. What is stored the other way is first transposed into a temporary
 * ({@link packDispatch}), which costs as much as about 12 rows of the product.
 *
 * @module
 */
import { itemDispatch, type Kernel, type KernelDispatch } from "./kernel.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { type MatmulProblem, type MatmulSide, matrixIndex, tilePlace } from "./matmul-problem.ts";
import { type Binding, declareOperand, type Operand, readsFour } from "./operand.ts";
import { createSizes, type Sizes } from "./sizes.ts";

/** Invocations per workgroup: one SIMD register of the software adapters. */
const WORKGROUP = 8;

/** How a register kernel is laid out. */
export interface RegisterOptions {
  /** Rows of the tile of an invocation; a multiple of 4. */
  readonly rows: number;
  /** Columns of the tile; a multiple of 4. */
  readonly columns: number;
  /** Transposes `a` first where its rows are contiguous. */
  readonly packA: boolean;
  /** Transposes `b` first where its columns are contiguous. */
  readonly packB: boolean;
}

/** The product with one output tile per invocation. */
export function registerMatmul(problem: MatmulProblem, options: RegisterOptions): Kernel {
  const dispatches: KernelDispatch[] = [];
  const temporaries: number[] = [];
  const pack = (side: MatmulSide): MatmulSide => {
    const { operand } = side;
    const matrices = sizeOf(side.batch);
    const length = Math.ceil(operand.lines / 4) * 4;
    const temporary = temporaries.length;
    temporaries.push(matrices * operand.length * length * 4);
    dispatches.push(packDispatch(operand, { matrices, temporary }));
    return {
      operand: {
        format: "f32",
        lines: operand.length,
        length,
        bindings: [{ temporary }],
      },
      kMajor: true,
      batch: side.batch,
    };
  };
  const a = options.packA && !problem.a.kMajor ? pack(problem.a) : problem.a;
  const b = options.packB && !problem.b.kMajor ? pack(problem.b) : problem.b;
  dispatches.push(registerDispatch({ ...problem, a, b }, options));
  const packed = `${a === problem.a ? "" : "a"}${b === problem.b ? "" : "b"}`;
  return {
    variant: `register-${options.rows}x${options.columns}${packed && `-packed-${packed}`}`,
    dispatches,
    temporaries,
  };
}

/**
 * Writes the transposed of each [lines, length] matrix of an operand as [length, lines rounded up to 4] in f32.
 */
export function packDispatch(
  operand: Operand,
  options: { readonly matrices: number; readonly temporary: number },
): KernelDispatch {
  const { lines, length } = operand;
  const { matrices, temporary } = options;
  const fours = Math.ceil(lines / 4);
  const block = readsFour(operand);
  // A run of k per invocation, as a workgroup costs a software adapter about a microsecond.
  const run = Math.min(length, 32);
  const runs = Math.ceil(length / run);
  const count = matrices * runs * fours;
  const sizes = createSizes();
  const place = tilePlace("index", { down: runs, across: fours, matrices }, sizes);
  const height = sizes.u32(lines), width = sizes.u32(length), pitch = sizes.u32(fours);
  const rows = [0, 1, 2, 3].map((i) =>
    `let line${i} = stack * ${height} + min(row + ${i}u, ${height} - 1u);`
  );
  const copy = block
    ? `${[0, 1, 2, 3].map((i) => `let v${i} = source(line${i}, k / 4u);`).join("\n    ")}
    ${
      ["x", "y", "z", "w"].map((c, i) =>
        `packed[to + (k + ${i}u) * ${pitch}] = vec4<f32>(v0.${c}, v1.${c}, v2.${c}, v3.${c});`
      ).join("\n    ")
    }`
    : `packed[to + k * ${pitch}] = vec4<f32>(source(line0, k), source(line1, k), source(line2, k), source(line3, k));`;
  const access = block ? "four" : "element";
  return itemDispatch({
    declare: `${declareOperand(operand, { name: "source", binding: 0, access, sizes })}
@group(0) @binding(${operand.bindings.length}) var<storage, read_write> packed: array<vec4<f32>>;`,
    count,
    threads: WORKGROUP,
    sizes,
    bindings: [...operand.bindings, { temporary }],
    body: `let row = ${place.column} * 4u;
  let start = ${place.row} * ${sizes.u32(run)};
  let end = min(start + ${sizes.u32(run)}, ${width});
  let stack = ${place.matrix};
  ${rows.join("\n  ")}
  let to = stack * ${width} * ${pitch} + row / 4u;
  for (var k = start; k < end; k += ${block ? 4 : 1}u) {
    ${copy}
  }`,
  });
}

/** The product's own dispatch, for kernels that are made of several. */
export interface RegisterDispatchOptions {
  /** Rows of the tile of an invocation; a multiple of 4. */
  readonly rows: number;
  /** Columns of the tile; a multiple of 4. */
  readonly columns: number;
  /** Where the product goes; the output by default. */
  readonly output?: Binding;
  /** The output's matrices are attention heads, which lie interleaved: stored as [stacks, m, heads, n]. */
  readonly heads?: number;
  /**
   * WGSL that replaces the epilogue of the output: it declares `epilogue` and `epilogue4`, and its buffers from binding number `binding`
   * on.
   */
  readonly epilogue?: {
    readonly declare: (binding: number, sizes: Sizes) => string;
    readonly bindings: readonly Binding[];
  };
  /** WGSL statements that lower the number `steps` of steps of k, from the tile's `row`, `column` and `matrix`. */
  readonly limit?: (sizes: Sizes) => string;
}

/** The product of two sides as they are, without transposing them first. */
export function registerDispatch(
  problem: MatmulProblem,
  options: RegisterDispatchOptions,
): KernelDispatch {
  const { m, n, k, batch, a, b } = problem;
  const { rows, columns, output = "output", heads = 1, epilogue } = options;
  const tilesM = Math.ceil(m / rows), tilesN = Math.ceil(n / columns);
  const tiles = sizeOf(batch) * tilesM * tilesN;
  const sizes = createSizes();
  const height = sizes.u32(m), width = sizes.u32(n);
  const left = readSide(a, {
    name: "a",
    size: height,
    tile: rows,
    origin: "row",
    binding: 0,
    sizes,
  });
  const bindingsA = a.operand.bindings.length, bindingsB = b.operand.bindings.length;
  const right = readSide(b, {
    name: "b",
    size: width,
    tile: columns,
    origin: "column",
    binding: bindingsA,
    sizes,
  });
  const place = tilePlace(
    "index",
    { down: tilesM, across: tilesN, matrices: sizeOf(batch) },
    sizes,
  );
  const byHeads = sizes.divisor(heads, sizeOf(batch));
  const products: string[] = [];
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns / 4; j++) {
      products.push(
        `sum[${i * columns / 4 + j}] += a${i >> 2}.${"xyzw"[i & 3]} * b${j};`,
      );
    }
  }
  const vector = n % 4 === 0;
  const pitch = heads === 1 ? width : `${byHeads.value} * ${width}`;
  const store = vector
    ? `for (var j = 0u; j < min(${columns / 4}u, (${width} - column) / 4u); j++) {
      let at = first + i * ${pitch} + j * 4u;
      output[at / 4u] = epilogue4(sum[i * ${columns / 4}u + j], at);
    }`
    : `for (var j = 0u; j < min(${columns}u, ${width} - column); j++) {
      let at = first + i * ${pitch} + j;
      output[at] = epilogue(sum[i * ${columns / 4}u + j / 4u][j % 4u], at);
    }`;
  return itemDispatch({
    declare: `${left.declare}${right.declare}
@group(0) @binding(${bindingsA + bindingsB}) var<storage, read_write> output: array<${
      vector ? "vec4<f32>" : "f32"
    }>;
${epilogue?.declare(bindingsA + bindingsB + 1, sizes) ?? ""}`,
    count: tiles,
    threads: WORKGROUP,
    sizes,
    bindings: [
      ...a.operand.bindings,
      ...b.operand.bindings,
      output,
      ...(epilogue?.bindings ?? []),
    ],
    ...(epilogue ? {} : { epilogue: true }),
    body: `let column = ${place.column} * ${columns}u;
  let row = ${place.row} * ${rows}u;
  let matrix = ${place.matrix};
  let stackA = ${matrixIndex(batch, a, sizes)};
  let stackB = ${matrixIndex(batch, b, sizes)};
  ${left.setup}
  ${right.setup}
  var sum: array<vec4<f32>, ${rows * columns / 4}>;
  var steps = ${sizes.u32(k)};
  ${options.limit?.(sizes) ?? ""}
  for (var k = 0u; k < steps; k++) {
    ${left.load}
    ${right.load}
    ${products.join("\n    ")}
  }
  let first = ${
      heads === 1
        ? `(matrix * ${height} + row) * ${width} + column`
        : `((${byHeads.quotient("matrix")} * ${height} + row) * ${byHeads.value} + ${
          byHeads.remainder("matrix")
        }) * ${width} + column`
    };
  for (var i = 0u; i < min(${rows}u, ${height} - row); i++) {
    ${store}
  }`,
  });
}

/** WGSL that reads `tile` elements of one side at step `k` into `NAME0`, `NAME1` …, four in each. Past the end it repeats what is there. */
function readSide(
  side: MatmulSide,
  options: {
    readonly name: string;
    /** WGSL of the length of the side. */
    readonly size: string;
    readonly tile: number;
    readonly origin: string;
    readonly binding: number;
    readonly sizes: Sizes;
  },
): { readonly declare: string; readonly setup: string; readonly load: string } {
  const { operand, kMajor } = side;
  const { name, size, tile, origin, binding, sizes } = options;
  const stack = `stack${name.toUpperCase()} * ${sizes.u32(operand.lines)}`;
  const read = `${name}At`;
  const setup: string[] = [], load: string[] = [];
  const access = kMajor && readsFour(operand) ? "four" : "element";
  if (access === "four") {
    const fours = sizes.u32(operand.length / 4);
    setup.push(`let ${name}Base = ${stack};`);
    for (let i = 0; i < tile / 4; i++) {
      const at = `${origin} / 4u + ${i}u`;
      setup.push(`let ${name}From${i} = ${i === 0 ? at : `min(${at}, ${fours} - 1u)`};`);
      load.push(`let ${name}${i} = ${read}(${name}Base + k, ${name}From${i});`);
    }
  } else {
    setup.push(`let ${name}Base = ${stack};`);
    for (let i = 0; i < tile; i++) {
      const at = `${origin} + ${i}u`;
      const place = i === 0 ? at : `min(${at}, ${size} - 1u)`;
      setup.push(`let ${name}From${i} = ${kMajor ? place : `${name}Base + ${place}`};`);
    }
    for (let i = 0; i < tile; i += 4) {
      const parts = [0, 1, 2, 3].map((x) =>
        kMajor ? `${read}(${name}Base + k, ${name}From${i + x})` : `${read}(${name}From${i + x}, k)`
      );
      load.push(`let ${name}${i / 4} = vec4<f32>(${parts.join(", ")});`);
    }
  }
  return {
    declare: declareOperand(operand, { name: read, binding, access, sizes }),
    setup: setup.join("\n  "),
    load: load.join("\n    "),
  };
}
