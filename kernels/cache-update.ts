/**
 * Writes new rows into a cache that is already there: only these rows move, not the cache.
 *
 * @module
 */
import { foldWorkgroups, type Kernel, workgroupNumber } from "./kernel.ts";
import type { ValueType } from "./value.ts";
import { createSizes } from "./sizes.ts";
import { STORAGE } from "./wgsl.ts";

/** Sizes of an update of [B, S, W] by [B, T, W]. */
export interface CacheUpdateSize {
  /** Sequences (B). */
  readonly batch: number;
  /** Rows of the cache (S). */
  readonly capacity: number;
  /** New rows (T). */
  readonly rows: number;
  /** Elements of a row (W). */
  readonly length: number;
}

/** Writes rows (input 1) from the row number `offset` (input 2) on; the output holds the cache already. */
export function cacheUpdateKernel(size: CacheUpdateSize, dtype: ValueType): Kernel {
  const { batch, capacity, rows, length } = size;
  const { word, perWord } = STORAGE[dtype];
  const whole = length % perWord === 0;
  const words = length / perWord;
  const vector = whole && words % 4 === 0;
  const per = vector ? words / 4 : words;
  const item = vector ? `vec4<${word}>` : word;
  const count = batch * rows * (whole ? per : length);
  const bits = 32 / perWord;
  const sizes = createSizes();
  const width = whole ? per : length;
  const byWidth = sizes.divisor(width, count), byRows = sizes.divisor(rows, batch * rows);
  const line = byWidth.quotient("i");
  const place = `(${byRows.quotient(line)} * ${sizes.u32(capacity)} + first + ${
    byRows.remainder(line)
  }) * ${byWidth.value} + ${byWidth.remainder("i")}`;
  // Rows that share words with their neighbours are written by one invocation, one element after the other.
  const threads = whole ? 64 : 1;
  const mask = 2 ** bits - 1;
  const body = whole
    ? `let i = ${workgroupNumber("id")} * 64u + lane;
  if (i >= ${sizes.u32(count)}) { return; }
  output[${place}] = rows[i];`
    : `for (var i = 0u; i < ${sizes.u32(count)}; i++) {
    let element = (rows[i / ${perWord}u] >> (${bits}u * (i % ${perWord}u))) & ${mask}u;
    let at = ${place};
    let shift = ${bits}u * (at % ${perWord}u);
    output[at / ${perWord}u] = (output[at / ${perWord}u] & ~(${mask}u << shift)) | (element << shift);
  }`;
  return {
    variant: vector ? "vectors" : whole ? "words" : "elements",
    dispatches: [{
      source: `@group(0) @binding(0) var<storage, read> rows: array<${item}>;
@group(0) @binding(1) var<storage, read> offset: array<i32>;
@group(0) @binding(2) var<storage, read_write> output: array<${item}>;

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = u32(clamp(offset[0], 0, ${sizes.i32(capacity - rows)}));
  ${body}
}
`,
      sizes,
      bindings: [1, 2, "output"],
      workgroups: whole ? foldWorkgroups(Math.ceil(count / 64)) : [1, 1, 1],
    }],
  };
}
