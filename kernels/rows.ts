/**
 * The frame of kernels that reduce along the rows of a matrix: norms, softmax, cross-entropy.
 *
 * These read each element one to three times and do a few operations on it, so memory is the limit. On hardware a workgroup takes a row, neighbours read
 * neighbouring words, and sums go through workgroup memory in log₂ steps. A software adapter runs invocations as lanes of one register:
 * there each invocation takes a row of its own and nothing is exchanged. The body of a kernel is the same text in both.
 *
 * Long rows are summed in blocks, and the blocks in turn: the error of an f32 sum grows with the longest chain of additions.
 *
 * @module
 */
import { foldWorkgroups, type Kernel, workgroupNumber } from "./kernel.ts";
import type { Binding } from "./operand.ts";
import type { Sizes } from "./sizes.ts";

/** Most additions in a row before the sum is put aside. */
const BLOCK = 64;

/** What a row kernel is made of. */
export interface RowKernel {
  /** Number of rows. */
  readonly rows: number;
  /** Elements of a row. */
  readonly length: number;
  /** The numbers that `declare` and `body` name. */
  readonly sizes: Sizes;
  /** WGSL: bindings and functions. Rows of a buffer are arrays of `item`: `vec4<f32>`, or `f32` where the length is not a multiple of 4. */
  readonly declare: string;
  /**
   * WGSL statements for the row number `row`, whose `count` items begin with number `first`. Every invocation runs all of them; what only one may do
   * stands in `if (leader) { }`.
   */
  readonly body: string;
  /** What is bound. */
  readonly bindings: readonly Binding[];
  /** The kernel calls the epilogue. */
  readonly epilogue?: true;
}

/** Items of a row: fours where the length allows. */
export function itemsOf(length: number): { readonly count: number; readonly vector: boolean } {
  return length % 4 ? { count: length, vector: false } : { count: length / 4, vector: true };
}

/** Invocations per workgroup. */
function threadsOf(count: number, software: boolean): number {
  return software ? 8 : count >= 512 ? 256 : count >= 96 ? 64 : 32;
}

/** Whether an invocation's share of a row is more than one block. */
export function isLong(length: number, { software }: { readonly software: boolean }): boolean {
  const { count } = itemsOf(length);
  return count > BLOCK * (software ? 1 : threadsOf(count, software));
}

/** WGSL that runs `text` for each item number `i` of an invocation's share of the row, in blocks between `before` and `after` where it is `long`. */
export function forItems(
  text: string,
  block: { readonly before?: string; readonly after?: string; readonly long?: boolean } = {},
): string {
  const { before = "", after = "", long = false } = block;
  const all = `for (var i = start; i < count; i += STRIDE) { ${text} }`;
  if (!before && !after) return all;
  // Short rows are one block.
  if (!long) return `{ ${before}\n    ${all}\n    ${after} }`;
  return `for (var block = start; block < count; block += ${BLOCK}u * STRIDE) {
    ${before}
    for (var i = block; i < min(block + ${BLOCK}u * STRIDE, count); i += STRIDE) { ${text} }
    ${after}
  }`;
}

/**
 * One workgroup or one invocation per row. The body may call `total(x: item) -> f32` and `largest(x: item) -> f32`, which reduce over the whole
 * row what each invocation gives.
 */
export function rowKernel(kernel: RowKernel, options: { readonly software: boolean }): Kernel {
  const { rows, length, sizes, declare, body, bindings, epilogue } = kernel;
  const { software } = options;
  const { count, vector } = itemsOf(length);
  const threads = threadsOf(count, software);
  const item = vector ? "vec4<f32>" : "f32";
  const sum = vector ? "(x.x + x.y) + (x.z + x.w)" : "x";
  const max = vector ? "max(max(x.x, x.y), max(x.z, x.w))" : "x";
  const tree = (name: string, own: string, combine: (a: string, b: string) => string) =>
    software ? `fn ${name}(x: item) -> f32 { return ${own}; }\n` : `fn ${name}(x: item) -> f32 {
  shares[thread] = ${own};
  for (var half = ${threads / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { shares[thread] = ${combine("shares[thread]", "shares[thread + half]")}; }
  }
  workgroupBarrier();
  let all = shares[0];
  workgroupBarrier();
  return all;
}
`;
  const source = `alias item = ${item};
const STRIDE = ${software ? 1 : threads}u;
${software ? "" : `var<workgroup> shares: array<f32, ${threads}>;\nvar<private> thread: u32;`}
${declare}
${tree("total", sum, (a, b) => `${a} + ${b}`)}${tree("largest", max, (a, b) => `max(${a}, ${b})`)}
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  ${
    software
      ? `let row = ${workgroupNumber("id")} * ${threads}u + lane;
  let start = 0u;
  let leader = true;`
      : `let row = ${workgroupNumber("id")};
  thread = lane;
  let start = lane;
  let leader = lane == 0u;`
  }
  if (row >= ${sizes.u32(rows)}) { return; }
  let count = ${sizes.u32(count)};
  let first = row * count;
  ${body}
}
`;
  return {
    variant: software ? "row-per-invocation" : `row-per-workgroup-${threads}`,
    dispatches: [{
      source,
      sizes,
      bindings,
      workgroups: foldWorkgroups(software ? Math.ceil(rows / threads) : rows),
      ...(epilogue && { epilogue }),
    }],
  };
}

/** Both forms of a row kernel on hardware, where short rows may waste most of a workgroup; the one without workgroup memory on a software adapter. */
export function rowVariants(
  make: (options: { readonly software: boolean }) => Kernel,
  features: { readonly software: boolean },
): readonly Kernel[] {
  return features.software
    ? [make({ software: true })]
    : [make({ software: false }), make({ software: true })];
}
