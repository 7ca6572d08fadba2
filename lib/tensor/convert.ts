/**
 * Conversion between element types.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../errors.ts";
import { dequantizeBlocks } from "./blocks.ts";
import {
  arrayOf,
  type DType,
  isBlockType,
  type ScalarType,
  sizeOf,
  type TypedArray,
} from "./dtype.ts";
import type { Tensor } from "./tensor.ts";

/** The types that hold a real number in 16 or 8 bits and that {@link float32ToBits} can write. */
export type SmallFloat = "f16" | "bf16" | "f8_e4m3" | "f8_e5m2";

/**
 * A tensor's elements as 32-bit floats, in the tensor's order. Block types are dequantized as ggml
 * defines it. An `f32` tensor gives its own array, so do not write to the result.
 *
 * @throws {UnsupportedError} for `c64` and for the 6-bit floats, whose packing no format defines.
 *
 * @example
 * ```ts
 * import { tensor, toFloat32 } from "@graft/peft";
 * const half = tensor(new Uint16Array([0x3c00, 0xc000]), { dtype: "f16" });
 * console.log(await toFloat32(half)); // Float32Array [1, -2]
 * ```
 */
export async function toFloat32(tensor: Tensor): Promise<Float32Array> {
  return decode(await tensor.data(), tensor.dtype, sizeOf(tensor.shape));
}

function decode(data: TypedArray, dtype: DType, size: number): Float32Array {
  if (isBlockType(dtype)) return dequantizeBlocks(data as Uint8Array, dtype);
  switch (dtype) {
    case "f32":
      return data as Float32Array;
    case "f16":
      return new Float32Array(new Float16Array(data.buffer, data.byteOffset, data.length));
    case "bf16": {
      const bits = new Uint32Array(data.length);
      for (let i = 0; i < bits.length; i++) bits[i] = (data[i] as number) << 16;
      return new Float32Array(bits.buffer);
    }
    case "f8_e4m3":
    case "f8_e5m2":
    case "f8_e4m3fnuz":
    case "f8_e5m2fnuz":
    case "f8_e8m0": {
      const table = Float32Array.from({ length: 256 }, (_, byte) => decodeByte(byte, dtype));
      const out = new Float32Array(data.length);
      for (let i = 0; i < out.length; i++) out[i] = table[data[i] as number];
      return out;
    }
    case "f4": {
      const out = new Float32Array(size);
      for (let i = 0; i < size; i++) {
        out[i] = decodeF4(((data[i >> 1] as number) >> ((i & 1) << 2)) & 15);
      }
      return out;
    }
    case "f6_e2m3":
    case "f6_e3m2":
    case "c64":
      throw new UnsupportedError(
        "DTYPE_CONVERSION",
        `A ${dtype} tensor cannot be read as 32-bit floats. Convert it with the program that made it.`,
        { dtype },
      );
    case "i64":
    case "u64":
      return Float32Array.from(data as BigInt64Array, Number);
    default:
      return new Float32Array(data as Exclude<TypedArray, BigInt64Array | BigUint64Array>);
  }
}

/**
 * The value of an 8-bit float: exponent and mantissa widths, bias, and which codes are not finite.
 */
function decodeByte(byte: number, dtype: ScalarType): number {
  if (dtype === "f8_e8m0") return byte === 255 ? NaN : 2 ** (byte - 127);
  const mantissaBits = dtype.startsWith("f8_e4m3") ? 3 : 2;
  const finiteOnly = dtype.endsWith("fnuz");
  if (finiteOnly && byte === 0x80) return NaN;
  const magnitude = byte & 0x7f;
  const sign = byte & 0x80 ? -1 : 1;
  if (dtype === "f8_e4m3" && magnitude === 0x7f) return NaN;
  if (dtype === "f8_e5m2" && magnitude >= 0x7c) return magnitude === 0x7c ? sign * Infinity : NaN;
  const bias = 2 ** (6 - mantissaBits) - (finiteOnly ? 0 : 1);
  const exponent = magnitude >> mantissaBits;
  const fraction = (magnitude & ((1 << mantissaBits) - 1)) / (1 << mantissaBits);
  return exponent
    ? sign * (1 + fraction) * 2 ** (exponent - bias)
    : sign * fraction * 2 ** (1 - bias);
}

/** The value of a 4-bit float (1 sign, 2 exponent and 1 mantissa bits). */
function decodeF4(code: number): number {
  const magnitude = [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7];
  return code & 8 ? -magnitude : magnitude;
}

/**
 * Floats as the bits of a smaller type, rounded to the nearest, ties to even. What is too large
 * becomes infinity; in `f8_e4m3`, which has none, the largest value, as in PyTorch.
 *
 * @param array Values.
 * @param dtype The type to write.
 * @returns 16-bit or 8-bit codes, one per value.
 */
export function float32ToBits(array: Float32Array, dtype: "f16" | "bf16"): Uint16Array;
/** Floats as the bits of an 8-bit type. */
export function float32ToBits(array: Float32Array, dtype: "f8_e4m3" | "f8_e5m2"): Uint8Array;
/** Floats as the bits of any smaller type. */
export function float32ToBits(array: Float32Array, dtype: SmallFloat): Uint16Array | Uint8Array;
export function float32ToBits(array: Float32Array, dtype: SmallFloat): Uint16Array | Uint8Array {
  if (dtype === "f16") return new Uint16Array(new Float16Array(array).buffer);
  const bits = new Uint32Array(array.buffer, array.byteOffset, array.length);
  if (dtype === "bf16") {
    const out = new Uint16Array(bits.length);
    for (let i = 0; i < out.length; i++) {
      const x = bits[i];
      // A NaN must not be rounded up into an infinity.
      out[i] = (x & 0x7fffffff) > 0x7f800000
        ? (x >>> 16) | 0x40
        : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
    }
    return out;
  }
  return encodeBytes(array, bits, dtype === "f8_e4m3" ? 3 : 2);
}

function encodeBytes(array: Float32Array, bits: Uint32Array, mantissaBits: 2 | 3): Uint8Array {
  const bias = 2 ** (6 - mantissaBits) - 1;
  const shift = 23 - mantissaBits;
  const overflow = mantissaBits === 3 ? 0x7e : 0x7c;
  const smallestNormal = 2 ** (1 - bias);
  // Adding this aligns a float's mantissa with the steps of the subnormals, so that the addition
  // rounds.
  const subnormal = smallestNormal / (1 << mantissaBits) * 2 ** 23;
  const rebias = (127 - bias) << mantissaBits;
  const out = new Uint8Array(array.length);
  for (let i = 0; i < out.length; i++) {
    const x = bits[i], magnitude = x & 0x7fffffff;
    let code: number;
    if (magnitude > 0x7f800000) {
      code = 0x7f;
    } else {
      const value = Math.abs(array[i]);
      code = value < smallestNormal
        ? (Math.fround(value + subnormal) - subnormal) / subnormal * 2 ** 23
        : ((magnitude + (1 << (shift - 1)) - 1 + ((magnitude >>> shift) & 1)) >>> shift) - rebias;
      if (code > overflow) code = overflow;
    }
    out[i] = (x >>> 24 & 0x80) | code;
  }
  return out;
}

/**
 * The same elements in another type. The conversion happens each time `data()` is called, so
 * weights of a file stay in the file. Floats become integers by dropping the fraction.
 *
 * @param tensor What to convert; a tensor that already has the type is returned as it is.
 * @param dtype A scalar type that can be written: not a block type, and none of the types that
 * exist in files only.
 * @throws {UnsupportedError} where the type cannot be written.
 * @throws {ValueError} from `data()`, where an integer type cannot hold a value.
 */
export function castTensor(tensor: Tensor, dtype: DType): Tensor {
  if (tensor.dtype === dtype) return tensor;
  if (!(dtype in RANGES) && !FLOATS.has(dtype)) {
    throw new UnsupportedError(
      "DTYPE_CONVERSION",
      `A ${tensor.dtype} tensor cannot be converted to ${dtype}; the types that can be written are ${
        [...FLOATS, ...Object.keys(RANGES)].join(", ")
      }.`,
      { from: tensor.dtype, to: dtype },
    );
  }
  const { shape, where } = tensor;
  return { dtype, shape, where, data: async () => cast(await tensor.data(), tensor, dtype) };
}

const FLOATS: ReadonlySet<string> = new Set(["f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2"]);

const RANGES: Readonly<Record<string, readonly [number, number]>> = {
  i64: [-(2 ** 63), 2 ** 63],
  u64: [0, 2 ** 64],
  i32: [-(2 ** 31), 2 ** 31],
  u32: [0, 2 ** 32],
  i16: [-(2 ** 15), 2 ** 15],
  u16: [0, 2 ** 16],
  i8: [-128, 128],
  u8: [0, 256],
  bool: [-Infinity, Infinity],
};

function cast(data: TypedArray, from: Tensor, to: DType): TypedArray {
  const size = sizeOf(from.shape);
  if (to === "f32") return decode(data, from.dtype, size);
  if (to === "f16" || to === "bf16" || to === "f8_e4m3" || to === "f8_e5m2") {
    return float32ToBits(decode(data, from.dtype, size), to);
  }
  // Wider types must not pass through 32-bit floats.
  const exact = /^(f64|[iu]\d+|bool)$/.test(from.dtype) ? data : decode(data, from.dtype, size);
  if (to === "f64") {
    return exact instanceof BigInt64Array || exact instanceof BigUint64Array
      ? Float64Array.from(exact, Number)
      : new Float64Array(exact);
  }
  return toIntegers(exact, from.dtype, to);
}

function toIntegers(values: TypedArray, from: DType, to: DType): TypedArray {
  const [low, high] = RANGES[to];
  const wide = to === "i64" || to === "u64";
  // deno-lint-ignore no-explicit-any -- written by index with numbers or bigints, as the type demands
  const out: any = arrayOf(to, values.length);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (to === "bool") {
      out[i] = value ? 1 : 0; // NaN is false here and true in torch; masks hold neither
      continue;
    }
    const whole = typeof value === "bigint" ? value : Math.trunc(value);
    if (!(whole >= low && whole < high)) {
      throw new ValueError(
        "VALUE_RANGE",
        `Element ${i} is ${value}, which ${to} cannot hold (converting from ${from}).`,
        { index: i, value: String(value), from, to },
      );
    }
    out[i] = wide ? BigInt(whole) : Number(whole);
  }
  return out;
}
