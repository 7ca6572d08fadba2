/**
 * Rows of a table by their numbers. Copies 16 bytes per invocation where rows are whole vectors, words where they are whole words, and puts
 * words together from single elements where 16- or 8-bit rows begin inside one. Numbers outside the table read its first or last row: hosts check
 * them before, and a kernel must not read elsewhere.
 *
 * @module
 */
import { foldWorkgroups, type Kernel } from "./kernel.ts";
import type { ValueType } from "../lib/ops/value.ts";
import { declareOperand, type Operand } from "./operand.ts";
import { createSizes } from "./sizes.ts";
import { STORAGE, workgroupNumber } from "./wgsl.ts";

/** Sizes of a lookup. */
export interface GatherSize {
  /** Numbers to look up (N). */
  readonly count: number;
  /** Rows of the table (V). */
  readonly rows: number;
  /** Elements of a row (D). */
  readonly length: number;
}

/** Rows of a table (input 0) at ids (input 1), in the table's type. */
export function gatherKernel(size: GatherSize, dtype: ValueType): Kernel {
  const { count, rows, length } = size;
  const { word, perWord } = STORAGE[dtype];
  const whole = length % perWord === 0;
  const words = length / perWord;
  const vector = whole && words % 4 === 0;
  const items = whole ? count * words / (vector ? 4 : 1) : Math.ceil(count * length / perWord);
  const item = vector ? `vec4<${word}>` : word;
  const per = vector ? words / 4 : words;
  const bits = 32 / perWord;
  const sizes = createSizes();
  const byRow = whole ? sizes.divisor(per, items) : sizes.divisor(length, count * length + perWord);
  const copy = whole
    ? `output[i] = table[rowOf(${byRow.quotient("i")}) * ${byRow.value} + ${byRow.remainder("i")}];`
    : `var word = 0u;
  for (var e = 0u; e < min(${perWord}u, ${sizes.u32(count * length)} - i * ${perWord}u); e++) {
    let element = i * ${perWord}u + e;
    let at = rowOf(${byRow.quotient("element")}) * ${byRow.value} + ${byRow.remainder("element")};
    word |= ((table[at / ${perWord}u] >> (${bits}u * (at % ${perWord}u))) & ${
      2 ** bits - 1
    }u) << (${bits}u * e);
  }
  output[i] = word;`;
  return {
    variant: vector ? "vectors" : whole ? "words" : "elements",
    dispatches: [{
      source: `@group(0) @binding(0) var<storage, read> table: array<${item}>;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read_write> output: array<${item}>;

fn rowOf(n: u32) -> u32 { return u32(clamp(ids[n], 0, ${sizes.i32(rows - 1)})); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = ${workgroupNumber("id")} * 64u + lane;
  if (i >= ${sizes.u32(items)}) { return; }
  ${copy}
}
`,
      sizes,
      bindings: [0, 1, "output"],
      workgroups: foldWorkgroups(Math.ceil(items / 64)),
    }],
  };
}

/** Rows of a quantized table at ids (input 0), or all rows in order without ids, in f32. */
export function dequantizeKernel(
  table: Operand,
  options: { readonly ids?: { readonly input: number; readonly count: number } } = {},
): Kernel {
  const { ids } = options;
  const fours = table.length / 4;
  const items = (ids?.count ?? table.lines) * fours;
  const binding = table.bindings.length;
  const sizes = createSizes();
  const byRow = sizes.divisor(fours, items);
  const number = byRow.quotient("i");
  const row = ids ? `u32(clamp(ids[${number}], 0, ${sizes.i32(table.lines - 1)}))` : number;
  return {
    variant: "fours",
    dispatches: [{
      source: `${declareOperand(table, { name: "table", binding: 0, access: "four", sizes })}
@group(0) @binding(${binding}) var<storage, read_write> output: array<vec4<f32>>;
${ids ? `@group(0) @binding(${binding + 1}) var<storage, read> ids: array<i32>;` : ""}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = ${workgroupNumber("id")} * 64u + lane;
  if (i >= ${sizes.u32(items)}) { return; }
  output[i] = epilogue4(table(${row}, ${byRow.remainder("i")}), i * 4u);
}
`,
      sizes,
      bindings: [...table.bindings, "output", ...(ids ? [ids.input] : [])],
      workgroups: foldWorkgroups(Math.ceil(items / 64)),
      epilogue: true,
    }],
  };
}
