/**
 * Sums and maxima over one run of neighbouring axes: [outer, reduced, inner] → [outer, inner], of any elementwise expression, and with one applied to the result.
 *
 * Sums are made of short sequential parts that are added in a tree, so that their error grows with the logarithm of the length.
 *
 * @module
 */
import { foldWorkgroups, workgroupNumber } from "./kernel.ts";
import type { Value } from "./value.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import {
  type FusedDispatch,
  joinSource,
  type Reads,
  writeExpression,
  type WrittenExpression,
} from "./expression.ts";
import { createSizes, type Sizes } from "./sizes.ts";
import { literal, STORAGE } from "./wgsl.ts";

/** What to reduce. */
export interface ReduceOptions extends Reads {
  /** The `reduce` node; its axes are neighbours. */
  readonly node: Value;
  /** What is stored: the node itself, or an elementwise function of it. */
  readonly root: Value;
  /** The adapter is a processor, where each row is summed by one invocation as barriers cost more than they save. */
  readonly software: boolean;
}

/** A reduction in one dispatch, or in two with a temporary between them. */
export interface ReduceKernel {
  /** The dispatches, in order. */
  readonly dispatches: readonly FusedDispatch[];
  /** Bytes of each temporary. */
  readonly temporaries: readonly number[];
}

/** A value's dimensions around the axes that a reduction sums over. */
export interface ReduceShape {
  /** Product of the dimensions before. */
  readonly outer: number;
  /** Product of the reduced ones. */
  readonly length: number;
  /** Product of those behind. */
  readonly inner: number;
}

/** The dimensions of a reduction whose axes are neighbours (axes of length 1 do not count). */
function reduceShape(node: Value): ReduceShape {
  const { shape } = node.inputs[0];
  const axes = (node.attributes.axes as readonly number[]).filter((a) => shape[a] > 1);
  const [first, last] = [axes[0] ?? 0, axes[axes.length - 1] ?? 0];
  return {
    outer: sizeOf(shape.slice(0, first)),
    length: sizeOf(shape.slice(first, last + 1)),
    inner: sizeOf(shape.slice(last + 1)),
  };
}

/** Invocations per workgroup. */
const SIZE = 64;
/** Elements of a row, or rows of a column, from which on the work is split over several workgroups. */
const SPLIT_ROW = 16384;
const SPLIT_COLUMN = 64;
/** On a processor, elements of a row that one invocation is worth starting for, and invocations that keep it busy. */
const SOFTWARE_ROW = 256;
const SOFTWARE_INVOCATIONS = 1024;

/** The kernels of a reduction. */
export function reduceKernel(options: ReduceOptions): ReduceKernel {
  const { node, root, leaf, rule, software } = options;
  const shape = reduceShape(node);
  const [x] = node.inputs;
  const sizes = createSizes();
  const input = writeExpression({
    roots: [x],
    sizes,
    leaf,
    rule,
    name: "input",
    firstBinding: 0,
  });
  const epilogue = (sizes: Sizes, firstBinding: number) =>
    writeExpression({
      roots: [root],
      sizes,
      parameter: node,
      leaf: (v) => v === node ? null : leaf(v),
      rule,
      name: "finish",
      firstBinding,
      scalarOnly: true,
    });
  const chunk = chunkOf(shape, software);
  if (!chunk) {
    const finish = epilogue(sizes, input.leaves.length);
    const last = stage({ shape, sizes, node, input, software, finish, root });
    const bindings = [...input.leaves, ...finish.leaves, { output: 0 }];
    return { dispatches: [{ ...last, bindings }], temporaries: [] };
  }
  // [outer, length, inner] → [outer, chunks, inner] → [outer, inner]
  const partial = stage({ shape, sizes, node, input, software, chunk });
  const { register } = STORAGE[node.dtype];
  const again: WrittenExpression = {
    source: [
      `@group(0) @binding(0) var<storage, read> partial: array<${register}>;`,
      `fn input(index: u32) -> ${register} { return partial[index]; }`,
    ].join("\n"),
    functions: [],
    leaves: [],
    pointwise: new Set(),
  };
  const lastSizes = createSizes();
  const finish = epilogue(lastSizes, 1);
  const last = stage({
    shape: { ...shape, length: chunk.count },
    sizes: lastSizes,
    node,
    input: again,
    software,
    scalar: true,
    finish,
    root,
    first: 1,
  });
  return {
    dispatches: [
      { ...partial, bindings: [...input.leaves, { temporary: 0 }] },
      { ...last, bindings: [{ temporary: 0 }, ...finish.leaves, { output: 0 }] },
    ],
    temporaries: [shape.outer * chunk.count * shape.inner * 4],
  };
}

interface Chunk {
  /** Number of parts. */
  readonly count: number;
  /** Elements of each but the last. */
  readonly length: number;
}

/** How the reduced axis is split, so that long sums of few results keep many workgroups busy. */
function chunkOf({ outer, length, inner }: ReduceShape, software: boolean): Chunk | null {
  let parts: number;
  if (inner > 1) {
    if (length <= SPLIT_COLUMN || outer * inner >= 65536) return null;
    parts = Math.min(256, length / (SPLIT_COLUMN / 2));
  } else if (software) {
    parts = Math.min(
      Math.max(SOFTWARE_INVOCATIONS / outer, Math.sqrt(length) / 16),
      length / SOFTWARE_ROW,
    );
    if (parts < 2) return null;
  } else {
    if (length < SPLIT_ROW || outer >= 256) return null;
    parts = Math.min(1024, length / (SPLIT_ROW / 4));
  }
  // Whole quads, so that rows can still be read as vectors.
  const part = Math.ceil(length / parts / 4) * 4;
  return { count: Math.ceil(length / part), length: part };
}

/** Elements that are added up in sequence before their sum goes to the next level: as many as there are such sums. */
function blockOf(count: number): number {
  return Math.max(8, 2 ** Math.ceil(Math.log2(Math.sqrt(count))));
}

interface StageOptions {
  readonly shape: ReduceShape;
  readonly sizes: Sizes;
  readonly node: Value;
  readonly input: WrittenExpression;
  readonly software: boolean;
  /** The input has no function of four elements. */
  readonly scalar?: boolean;
  /** The part of the axis that each workgroup reduces, where there are several. */
  readonly chunk?: Chunk;
  /** What is applied to the result. */
  readonly finish?: WrittenExpression;
  readonly root?: Value;
  /** Bindings before those of `finish`, when they are not `input`'s leaves. */
  readonly first?: number;
}

function stage(options: StageOptions): Omit<FusedDispatch, "bindings"> {
  const { shape, node, input, finish, root } = options;
  const output = (options.first ?? input.leaves.length) + (finish?.leaves.length ?? 0);
  const { register } = STORAGE[node.dtype];
  const stored = finish ? root!.dtype : node.dtype;
  const storedWord = STORAGE[stored];
  if (storedWord.perWord !== 1) {
    throw new TypeError(`A reduction cannot store ${stored}.`);
  }
  const sum = node.attributes.fn === "sum";
  const text: Text = {
    ...options,
    register,
    combine: (a, b) => sum ? `(${a} + ${b})` : `max(${a}, ${b})`,
    identity: sum
      ? literal(0, node.dtype)
      : literal(register === "f32" ? -Infinity : register === "i32" ? -2147483648 : 0, node.dtype),
    store: (value, index) => {
      const v = finish ? `finish(${value}, ${index})` : value;
      return `output[${index}] = ${stored === "bool" ? `select(0u, 1u, ${v})` : v};`;
    },
  };
  const { main, workgroups } = shape.inner === 1 ? rows(text) : columns(text);
  return {
    source: joinSource([
      input.source,
      ...(finish ? [finish.source] : []),
      `@group(0) @binding(${output}) var<storage, read_write> output: array<${storedWord.word}>;`,
      ...main,
    ], [...input.functions, ...(finish?.functions ?? [])]),
    sizes: options.sizes,
    workgroups,
  };
}

interface Text extends StageOptions {
  readonly register: string;
  readonly combine: (a: string, b: string) => string;
  readonly identity: string;
  readonly store: (value: string, index: string) => string;
}

const HEAD =
  "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {";

/** Rows of neighbouring elements: a power of two of invocations shares a row. */
function rows(text: Text): { main: string[]; workgroups: readonly [number, number, number] } {
  const { shape: { outer, length }, sizes, register: t, combine, identity, chunk, scalar } = text;
  const part = chunk?.length ?? length, count = chunk?.count ?? 1;
  const quads = !scalar && length % 4 === 0;
  const width = quads ? 4 : 1, units = Math.ceil(part / width);
  let threads = 1;
  while (!text.software && threads < 256 && threads * 8 <= units) threads *= 2;
  const size = threads > SIZE ? 256 : SIZE, perGroup = size / threads;
  const results = outer * count;
  const vector = quads ? `vec4<${t}>` : t;
  const none = quads ? `${vector}(${identity})` : identity;
  const fold = quads
    ? combine(combine("total.x", "total.y"), combine("total.z", "total.w"))
    : "total";
  const read = quads ? `input4(first + u * 4u)` : `input(first + u)`;
  const whole = sizes.u32(length), all = sizes.u32(results);
  const step = sizes.u32(threads * blockOf(units / threads));
  // Rows too short to share are those of one invocation each, on a GPU too.
  const shared = threads > 1;
  const lanes = shared ? sizes.u32(threads) : "1u";
  const byCount = chunk && sizes.divisor(count, results);
  const place = chunk
    ? [
      `let chunk = ${byCount!.remainder("result")} * ${sizes.u32(part)};`,
      `let first = ${byCount!.quotient("result")} * ${whole} + chunk;`,
      // The last chunk must not run over into the next row.
      `let end = min(${sizes.u32(units)}, (${whole} - chunk) / ${width}u);`,
    ]
    : [`let first = result * ${whole};`, `let end = ${sizes.u32(units)};`];
  const main = [
    ...(shared ? [`var<workgroup> shared_: array<${t}, ${size}>;`] : []),
    `@compute @workgroup_size(${size})`,
    HEAD,
    ...(shared
      ? [
        `let result = ${workgroupNumber("group")} * ${sizes.u32(perGroup)} + (local >> ${
          sizes.u32(Math.log2(threads))
        });`,
        `let lane = local & (${lanes} - 1u);`,
      ]
      : [`let result = ${workgroupNumber("group")} * ${size}u + local;`, "let lane = 0u;"]),
    `var total = ${none};`,
    `if (result < ${all}) {`,
    ...place,
    // Read once, before the loops.
    `let step = ${step};`,
    `let lanes = ${lanes};`,
    // Blocks of a few elements, and then their sums.
    "for (var b = lane; b < end; b += step) {",
    `var block = ${none};`,
    "let stop = min(end, b + step);",
    `for (var u = b; u < stop; u += lanes) { block = ${combine("block", read)}; }`,
    `total = ${combine("total", "block")};`,
    "}",
    "}",
  ];
  if (shared) {
    main.push(
      `shared_[local] = ${fold};`,
      "workgroupBarrier();",
      `for (var half = ${lanes} >> 1u; half > 0u; half >>= 1u) {`,
      `if (lane < half) { shared_[local] = ${
        combine("shared_[local]", "shared_[local + half]")
      }; }`,
      "workgroupBarrier();",
      "}",
      `if (lane == 0u && result < ${all}) { ${text.store("shared_[local]", "result")} }`,
    );
  } else {
    main.push(`if (result < ${all}) { ${text.store(fold, "result")} }`);
  }
  main.push("}");
  return { main, workgroups: foldWorkgroups(Math.ceil(results / perGroup)) };
}

/** Columns: each invocation goes down one, or four neighbouring ones. */
function columns(text: Text): { main: string[]; workgroups: readonly [number, number, number] } {
  const { shape, sizes, register: t, combine, identity, chunk, scalar } = text;
  const { outer, length, inner } = shape;
  const part = chunk?.length ?? length, count = chunk?.count ?? 1;
  const quads = !scalar && inner % 4 === 0;
  const width = quads ? 4 : 1;
  const across = inner / width;
  const total = outer * count * across;
  const vector = quads ? `vec4<${t}>` : t;
  const none = quads ? `${vector}(${identity})` : identity;
  const block = sizes.u32(blockOf(part));
  const columns = sizes.u32(inner), whole = sizes.u32(length);
  const read = quads ? "input4" : "input";
  const byAcross = sizes.divisor(across, total);
  const stores = quads
    ? ["x", "y", "z", "w"].map((c, i) => text.store(`total.${c}`, `at + ${i}u`))
    : [text.store("total", "at")];
  const byCount = chunk && sizes.divisor(count, outer * count);
  const place = chunk
    ? [
      `let start = ${byCount!.remainder("part")} * ${sizes.u32(part)};`,
      `let end = min(${whole}, start + ${sizes.u32(part)});`,
      `let first = ${byCount!.quotient("part")} * ${whole} * ${columns} + column;`,
    ]
    : [
      "let start = 0u;",
      `let end = ${whole};`,
      `let first = part * ${whole} * ${columns} + column;`,
    ];
  const main = [
    `@compute @workgroup_size(${SIZE})`,
    HEAD,
    `let id = ${workgroupNumber("group")} * ${SIZE}u + local;`,
    `if (id >= ${sizes.u32(total)}) { return; }`,
    `let column = ${byAcross.remainder("id")} * ${width}u;`,
    `let part = ${byAcross.quotient("id")};`,
    ...place,
    // Read once, before the loops.
    `let rows = ${block};`,
    `let stride = ${columns};`,
    `var total = ${none};`,
    "for (var b = start; b < end; b += rows) {",
    `var block = ${none};`,
    "let stop = min(end, b + rows);",
    `for (var r = b; r < stop; r++) { block = ${
      combine("block", `${read}(first + r * stride)`)
    }; }`,
    `total = ${combine("total", "block")};`,
    "}",
    `let at = part * ${columns} + column;`,
    ...stores,
    "}",
  ];
  return { main, workgroups: foldWorkgroups(Math.ceil(total / SIZE)) };
}
