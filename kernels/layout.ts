/**
 * Kernels that only move elements: transposes through workgroup memory, and concatenation.
 *
 * @module
 */
import type { IndexMap } from "./index-map.ts";
import { foldWorkgroups, workgroupNumber } from "./kernel.ts";
import type { ValueType } from "./value.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { createSizes, type Sizes } from "./sizes.ts";
import { STORAGE } from "./wgsl.ts";

/** A kernel that reads binding 0 and writes binding 1. */
export interface LayoutKernel {
  /** WGSL with entry point `main`. */
  readonly source: string;
  /** The numbers that the source names. */
  readonly sizes: Sizes;
  /** Workgroups in x, y, z. */
  readonly workgroups: readonly [number, number, number];
}

/** Side of the square tiles that a transpose goes through, and the rows of one that a workgroup moves at a time. */
const TILE = 32, STEP = 8;
/** Shorter axes would leave most of a tile empty. */
const SHORTEST = 16;

/**
 * A copy whose map changes the last axis: tiles are read along the input's last axis and written along the output's, so that neighbouring invocations
 * touch neighbouring elements on both sides. An invocation moves four elements, which share most of their addresses.
 *
 * @param map From the flat output index to the flat input index.
 * @param dtype A type of 32 bits per element.
 * @returns null where the map keeps the last axis, or the axes are too short for tiles.
 */
export function transposeKernel(map: IndexMap, dtype: ValueType): LayoutKernel | null {
  const { factors } = map;
  if (STORAGE[dtype].perWord !== 1 || factors.length < 2) return null;
  const last = factors.length - 1;
  const fast = factors.findIndex((f) => f.stride === 1);
  if (fast < 0 || fast === last || factors[last].stride === 0) return null;
  const n = factors[last].extent, m = factors[fast].extent;
  if (n < SHORTEST || m < SHORTEST) return null;
  // Worth of one count of `fast` in the output, and the other factors as the batch.
  const place = sizeOf(factors.slice(fast + 1).map((f) => f.extent));
  const batch = factors.filter((_, i) => i !== fast && i !== last);
  const batchSize = sizeOf(batch.map((f) => f.extent));
  const outputStrides = factors.map((_, i) => sizeOf(factors.slice(i + 1).map((f) => f.extent)))
    .filter((_, i) => i !== fast && i !== last);
  const across = Math.ceil(n / TILE), down = Math.ceil(m / TILE);
  const { word } = STORAGE[dtype];
  const sizes = createSizes();
  const from = sizes.map({ offset: map.offset, factors: batch })("batch");
  const to = sizes.map({
    offset: 0,
    factors: batch.map((f, i) => ({ extent: f.extent, stride: outputStrides[i] })),
  })("batch");
  const byTiles = sizes.divisor(across * down, batchSize * across * down);
  const byAcross = sizes.divisor(across, across * down);
  const rows = sizes.u32(m), columns = sizes.u32(n), stacks = sizes.u32(batchSize);
  const pitch = sizes.u32(factors[last].stride), step = sizes.u32(place);
  return {
    source: `
@group(0) @binding(0) var<storage, read> source: array<${word}>;
@group(0) @binding(1) var<storage, read_write> output: array<${word}>;
// One column more than the tile, so that a column's elements lie in different banks.
var<workgroup> tile: array<${word}, ${TILE * (TILE + 1)}>;
@compute @workgroup_size(${TILE}, ${STEP})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let id = ${workgroupNumber("group")};
  let batch = ${byTiles.quotient("id")};
  let inside = ${byTiles.remainder("id")};
  let row = ${byAcross.quotient("inside")} * ${TILE}u;
  let column = ${byAcross.remainder("inside")} * ${TILE}u;
  let height = ${rows} - row;
  let width = ${columns} - column;
  if (batch < ${stacks} && local.x < height) {
    let first = ${from} + row + local.x + column * ${pitch};
    for (var y = local.y; y < min(width, ${TILE}u); y += ${STEP}u) {
      tile[y * ${TILE + 1}u + local.x] = source[first + y * ${pitch}];
    }
  }
  workgroupBarrier();
  if (batch < ${stacks} && local.x < width) {
    let first = ${to} + row * ${step} + column + local.x;
    for (var y = local.y; y < min(height, ${TILE}u); y += ${STEP}u) {
      output[first + y * ${step}] = tile[local.x * ${TILE + 1}u + y];
    }
  }
}
`,
    sizes,
    workgroups: foldWorkgroups(batchSize * across * down),
  };
}

/** Where a piece goes. */
export interface PieceOptions {
  /** Element type of piece and output. */
  readonly dtype: ValueType;
  /** Number of runs of neighbouring elements in the piece. */
  readonly rows: number;
  /** Elements of a run. */
  readonly length: number;
  /** Elements from one run to the next in the output. */
  readonly pitch: number;
  /** Elements before the first run in the output. */
  readonly offset: number;
}

/**
 * Copies a piece of a concatenation to its place.
 *
 * @returns null where runs do not begin and end between words, as they may with types of less than 32 bits.
 */
export function pieceKernel(options: PieceOptions): LayoutKernel | null {
  const { dtype, rows } = options;
  const { perWord, word } = STORAGE[dtype];
  const words = [options.length, options.pitch, options.offset].map((n) => n / perWord);
  if (!words.every(Number.isInteger)) return null;
  const vector = words.every((n) => n % 4 === 0) ? 4 : 1;
  const [length, pitch, offset] = words.map((n) => n / vector);
  const type = vector === 4 ? `vec4<${word}>` : word;
  const total = rows * length;
  const size = 64;
  const sizes = createSizes();
  const byLength = sizes.divisor(length, total);
  return {
    source: `
@group(0) @binding(0) var<storage, read> source: array<${type}>;
@group(0) @binding(1) var<storage, read_write> output: array<${type}>;
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let i = ${workgroupNumber("group")} * ${size}u + local;
  if (i < ${sizes.u32(total)}) {
    output[${byLength.quotient("i")} * ${sizes.u32(pitch)} + ${sizes.u32(offset)} + ${
      byLength.remainder("i")
    }] = source[i];
  }
}
`,
    sizes,
    workgroups: foldWorkgroups(Math.ceil(total / size)),
  };
}
