/**
 * Rows of a table by their numbers. Copies 16 bytes per invocation where rows are whole vectors, words where they are whole words, and puts
 * words together from single elements where 16- or 8-bit rows begin inside one. Numbers outside the table read its first or last row: hosts check
 * them before, and a kernel must not read elsewhere.
 *
 * @module
 */
import { itemDispatch, type Kernel } from "./kernel.ts";
import type { ValueType } from "./value.ts";
import { declareOperand, type Operand } from "./operand.ts";
import { createSizes } from "./sizes.ts";
import { STORAGE } from "./wgsl.ts";

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
    ? `output[index] = table[rowOf(${byRow.quotient("index")}) * ${byRow.value} + ${
      byRow.remainder("index")
    }];`
    : `var word = 0u;
  for (var e = 0u; e < min(${perWord}u, ${sizes.u32(count * length)} - index * ${perWord}u); e++) {
    let element = index * ${perWord}u + e;
    let at = rowOf(${byRow.quotient("element")}) * ${byRow.value} + ${byRow.remainder("element")};
    word |= ((table[at / ${perWord}u] >> (${bits}u * (at % ${perWord}u))) & ${
      2 ** bits - 1
    }u) << (${bits}u * e);
  }
  output[index] = word;`;
  return {
    variant: vector ? "vectors" : whole ? "words" : "elements",
    dispatches: [itemDispatch({
      declare: `@group(0) @binding(0) var<storage, read> table: array<${item}>;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read_write> output: array<${item}>;

fn rowOf(n: u32) -> u32 { return u32(clamp(ids[n], 0, ${sizes.i32(rows - 1)})); }`,
      count: items,
      sizes,
      bindings: [0, 1, "output"],
      body: copy,
    })],
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
  const number = byRow.quotient("index");
  const row = ids ? `u32(clamp(ids[${number}], 0, ${sizes.i32(table.lines - 1)}))` : number;
  return {
    variant: "fours",
    dispatches: [itemDispatch({
      declare: `${declareOperand(table, { name: "table", binding: 0, access: "four", sizes })}
@group(0) @binding(${binding}) var<storage, read_write> output: array<vec4<f32>>;
${ids ? `@group(0) @binding(${binding + 1}) var<storage, read> ids: array<i32>;` : ""}`,
      count: items,
      sizes,
      bindings: [...table.bindings, "output", ...(ids ? [ids.input] : [])],
      epilogue: true,
      body: `output[index] = epilogue4(table(${row}, ${byRow.remainder("index")}), index * 4u);`,
    })],
  };
}
