/**
 * Element types: their names, sizes and the typed arrays that hold them.
 *
 * @module
 */

/**
 * Types with a code of its own for each element. The last seven exist in files only: nothing
 * computes with them; `f4` and `f6` are packed without padding, and `c64` holds pairs of 32-bit
 * floats.
 */
export type ScalarType =
  | "f64"
  | "f32"
  | "f16"
  | "bf16"
  | "f8_e4m3"
  | "f8_e5m2"
  | "i64"
  | "i32"
  | "i16"
  | "i8"
  | "u64"
  | "u32"
  | "u16"
  | "u8"
  | "bool"
  | "f8_e8m0"
  | "f8_e4m3fnuz"
  | "f8_e5m2fnuz"
  | "f6_e2m3"
  | "f6_e3m2"
  | "f4"
  | "c64";

/** GGUF's block-quantized types: a block of elements shares its scales. */
export type BlockType =
  | "q4_0"
  | "q4_1"
  | "q5_0"
  | "q5_1"
  | "q8_0"
  | "q2_k"
  | "q3_k"
  | "q4_k"
  | "q5_k"
  | "q6_k"
  | "iq4_nl"
  | "iq4_xs";

/** Any element type that a tensor can have. */
export type DType = ScalarType | BlockType;

/** The arrays that {@link Tensor.data} can give. 16-bit and 8-bit floats come as their bits. */
export type TypedArray =
  | Float64Array
  | Float32Array
  | Uint16Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint32Array
  | Uint8Array;

interface DTypeInfo {
  /** Bytes per block. */
  readonly bytes: number;
  /** Elements per block; 1 for scalar types. */
  readonly block: number;
  // deno-lint-ignore no-explicit-any -- the constructors share no common signature
  readonly array: any;
}

const INFO: Readonly<Record<DType, DTypeInfo>> = {
  f64: { bytes: 8, block: 1, array: Float64Array },
  f32: { bytes: 4, block: 1, array: Float32Array },
  f16: { bytes: 2, block: 1, array: Uint16Array },
  bf16: { bytes: 2, block: 1, array: Uint16Array },
  f8_e4m3: { bytes: 1, block: 1, array: Uint8Array },
  f8_e5m2: { bytes: 1, block: 1, array: Uint8Array },
  i64: { bytes: 8, block: 1, array: BigInt64Array },
  i32: { bytes: 4, block: 1, array: Int32Array },
  i16: { bytes: 2, block: 1, array: Int16Array },
  i8: { bytes: 1, block: 1, array: Int8Array },
  u64: { bytes: 8, block: 1, array: BigUint64Array },
  u32: { bytes: 4, block: 1, array: Uint32Array },
  u16: { bytes: 2, block: 1, array: Uint16Array },
  u8: { bytes: 1, block: 1, array: Uint8Array },
  bool: { bytes: 1, block: 1, array: Uint8Array },
  f8_e8m0: { bytes: 1, block: 1, array: Uint8Array },
  f8_e4m3fnuz: { bytes: 1, block: 1, array: Uint8Array },
  f8_e5m2fnuz: { bytes: 1, block: 1, array: Uint8Array },
  f6_e2m3: { bytes: 3, block: 4, array: Uint8Array },
  f6_e3m2: { bytes: 3, block: 4, array: Uint8Array },
  f4: { bytes: 1, block: 2, array: Uint8Array },
  c64: { bytes: 8, block: 1, array: Float32Array },
  q4_0: { bytes: 18, block: 32, array: Uint8Array },
  q4_1: { bytes: 20, block: 32, array: Uint8Array },
  q5_0: { bytes: 22, block: 32, array: Uint8Array },
  q5_1: { bytes: 24, block: 32, array: Uint8Array },
  q8_0: { bytes: 34, block: 32, array: Uint8Array },
  q2_k: { bytes: 84, block: 256, array: Uint8Array },
  q3_k: { bytes: 110, block: 256, array: Uint8Array },
  q4_k: { bytes: 144, block: 256, array: Uint8Array },
  q5_k: { bytes: 176, block: 256, array: Uint8Array },
  q6_k: { bytes: 210, block: 256, array: Uint8Array },
  iq4_nl: { bytes: 18, block: 32, array: Uint8Array },
  iq4_xs: { bytes: 136, block: 256, array: Uint8Array },
};

/** Whether elements come in blocks that share their scales. */
export function isBlockType(dtype: DType): dtype is BlockType {
  return dtype.includes("q");
}

/** Whether a type holds real numbers (block types included). */
export function isFloating(dtype: DType): boolean {
  return /^(f|bf)/.test(dtype) || isBlockType(dtype);
}

/** Whether elements are floating-point numbers of 16 bits that programs compute with. */
export function isHalf(dtype: DType): dtype is "f16" | "bf16" {
  return dtype === "f16" || dtype === "bf16";
}

/** The types that weights are computed with and saved in, by torch's names. */
export const WEIGHT_TYPES = {
  f32: "float32",
  f16: "float16",
  bf16: "bfloat16",
  f64: "float64",
} as const;

/** A type of plain weights. */
export type WeightType = keyof typeof WEIGHT_TYPES;

/** Whether a type is one of plain weights. */
export function isWeightType(dtype: DType): dtype is WeightType {
  return Object.hasOwn(WEIGHT_TYPES, dtype);
}

/**
 * The one type for all of a model's weights: that of the plain ones where they share one, else f32
 * where others are block-quantized, else that of most.
 */
export function commonType(
  weights: Iterable<{ readonly dtype: DType; readonly shape: readonly number[] }>,
): WeightType {
  const sizes = new Map<WeightType, number>();
  let hasBlocks = false;
  for (const { dtype, shape } of weights) {
    if (isWeightType(dtype)) sizes.set(dtype, (sizes.get(dtype) ?? 0) + sizeOf(shape));
    hasBlocks ||= isBlockType(dtype);
  }
  const [most = "f32"] = [...sizes].sort((a, b) => b[1] - a[1]).map(([dtype]) => dtype);
  return hasBlocks && sizes.size > 1 ? "f32" : most;
}

/**
 * Elements per block: 32 or 256 for block types, 1 for scalar types (2 and 4 for the packed `f4`
 * and `f6`).
 */
export function blockLength(dtype: DType): number {
  return INFO[dtype].block;
}

/** Number of elements of a shape; 1 for a scalar's `[]`. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((n, d) => n * d, 1);
}

/** Bytes that a tensor of this type and shape takes when stored without padding. */
export function byteLength(dtype: DType, shape: readonly number[]): number {
  const { bytes, block } = INFO[dtype];
  return Math.ceil(sizeOf(shape) / block) * bytes;
}

/**
 * Views bytes as the typed array of a dtype; copies only when the bytes are not aligned for it.
 *
 * @param bytes Little-endian contents.
 * @param dtype Element type; block types give the bytes themselves.
 */
export function viewAs(bytes: Uint8Array, dtype: DType): TypedArray {
  const { array } = INFO[dtype];
  const unit = array.BYTES_PER_ELEMENT as number;
  const aligned = bytes.byteOffset % unit === 0 ? bytes : bytes.slice();
  return new array(aligned.buffer, aligned.byteOffset, aligned.byteLength / unit);
}

/** The array that holds elements of a type: so many zeros, or these numbers. */
export function arrayOf(dtype: DType, contents: number | readonly number[]): TypedArray {
  const { array } = INFO[dtype];
  if (typeof contents === "number") return new array(contents);
  return /^[iu]64$/.test(dtype) ? array.from(contents, BigInt) : array.from(contents);
}

/** The dtype that a typed array holds when nothing else is said (a `Uint16Array` is `u16`). */
export function dtypeOf(array: TypedArray): ScalarType {
  if (array instanceof Float32Array) return "f32";
  if (array instanceof Float64Array) return "f64";
  if (array instanceof Int32Array) return "i32";
  if (array instanceof Uint32Array) return "u32";
  if (array instanceof BigInt64Array) return "i64";
  if (array instanceof BigUint64Array) return "u64";
  if (array instanceof Int16Array) return "i16";
  if (array instanceof Uint16Array) return "u16";
  if (array instanceof Int8Array) return "i8";
  return "u8";
}

/** Row-major strides of a shape, in elements. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1] * shape[i + 1];
  return strides;
}
