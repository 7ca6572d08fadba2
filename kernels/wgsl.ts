/**
 * WGSL text that the kernels share: literals and the way element types lie in storage.
 *
 * @module
 */
import type { ValueType } from "./value.ts";

/** The WGSL type that an element has in expressions. */
export type RegisterType = "f32" | "i32" | "u32" | "bool";

/** How elements of a type lie in a storage buffer. */
export interface StorageFormat {
  /** The type in expressions. */
  readonly register: RegisterType;
  /** WGSL type of one 32-bit word of the buffer. */
  readonly word: "f32" | "i32" | "u32";
  /** Elements in a word. */
  readonly perWord: 1 | 2 | 4;
}

/** The storage format of each element type (see the notes in kernels/kernel-rule.ts). */
export const STORAGE: Readonly<Record<ValueType, StorageFormat>> = {
  f32: { register: "f32", word: "f32", perWord: 1 },
  f16: { register: "f32", word: "u32", perWord: 2 },
  bf16: { register: "f32", word: "u32", perWord: 2 },
  i32: { register: "i32", word: "i32", perWord: 1 },
  u32: { register: "u32", word: "u32", perWord: 1 },
  u8: { register: "u32", word: "u32", perWord: 4 },
  bool: { register: "bool", word: "u32", perWord: 1 },
};

/** Bytes that a value takes in a storage buffer, rounded up to 16. */
export function storageBytes(dtype: ValueType, size: number): number {
  return Math.ceil(size * 4 / STORAGE[dtype].perWord / 16) * 16;
}

/**
 * 0 as a WGSL expression that compilers do not see through, from the invocation's number in a workgroup of `size`. Loops that begin with it have no
 * constant length: some drivers write every short loop of constant length out in full, loads and all, and take seconds to compile what
 * runs slower than the loop.
 */
export function opaqueZero(invocation: string, size: number): string {
  return `${invocation} / ${size}u`;
}

/** WGSL that picks one of several values by the variable `i`. */
export function pick(value: (i: number) => string, from: number, to: number): string {
  if (to - from === 1) return value(from);
  const middle = (from + to) / 2;
  return `select(${pick(value, from, middle)}, ${pick(value, middle, to)}, i >= ${middle}u)`;
}

/** A number as a WGSL expression of the type that elements of `dtype` have in expressions. */
export function literal(value: number, dtype: ValueType): string {
  switch (STORAGE[dtype].register) {
    case "bool":
      return value ? "true" : "false";
    case "u32":
      return `${value >>> 0}u`;
    case "i32":
      return (value | 0) === -2147483648 ? "(-2147483647 - 1)" : `i32(${value | 0})`;
    case "f32":
      return float(value);
  }
}

function float(value: number): string {
  const x = Math.fround(value);
  // Infinities and NaN have no literals, and constant expressions must not produce them.
  if (Number.isNaN(x)) return "notANumber()";
  if (!Number.isFinite(x)) return x > 0 ? "infinity()" : "(-infinity())";
  const text = String(x);
  const decimal = /[.e]/.test(text) ? text : `${text}.0`;
  return Object.is(x, -0) ? "(-0.0f)" : x < 0 ? `(${decimal}f)` : `${decimal}f`;
}

/** The functions that {@link literal} may call. */
export const LITERAL_FUNCTIONS = `
fn infinity() -> f32 { let bits = 0x7f800000u; return bitcast<f32>(bits); }
fn notANumber() -> f32 { let bits = 0x7fc00000u; return bitcast<f32>(bits); }
`;

/** WGSL expression of an element from the name of its buffer's word array: `word(i)` gives the word number i. */
export function unpack(dtype: ValueType, word: (index: string) => string, index: string): string {
  switch (dtype) {
    case "f16":
      return `unpack2x16float(${word(`(${index}) / 2u`)})[(${index}) % 2u]`;
    case "bf16":
      return `bitcast<f32>((${word(`(${index}) / 2u`)} >> (16u * ((${index}) % 2u))) << 16u)`;
    case "u8":
      return `((${word(`(${index}) / 4u`)} >> (8u * ((${index}) % 4u))) & 255u)`;
    case "bool":
      return `(${word(index)} != 0u)`;
    default:
      return word(index);
  }
}

/** bf16 bits (in the low half) of an `f32`, rounded to nearest even; NaN stays NaN. */
export const BF16_FUNCTION = `
fn bf16Bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
  return select(rounded, (bits >> 16u) | 64u, (bits & 0x7fffffffu) > 0x7f800000u);
}
`;

/**
 * An `f32` rounded to what f16 can hold, to nearest even, subnormal numbers included. Packing and
 * unpacking would say the same, but compilers take that for nothing at all.
 */
export const F16_FUNCTION = `
fn roundF16(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let cut = (size + 0xfffu + ((size >> 13u) & 1u)) & 0xffffe000u;
  let normal = select(cut, 0x7f800000u, cut >= 0x47800000u && size <= 0x7f800000u);
  let small = bitcast<u32>(round(bitcast<f32>(size) * 16777216.0) / 16777216.0);
  return bitcast<f32>((bits & 0x80000000u) | select(normal, small, size < 0x38800000u));
}
`;
