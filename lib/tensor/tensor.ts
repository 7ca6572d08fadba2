/**
 * The tensor: a dtype, a shape and a way to reach the contents.
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { show } from "../options.ts";
import {
  arrayOf,
  byteLength,
  type DType,
  dtypeOf,
  sizeOf,
  type TypedArray,
  viewAs,
} from "./dtype.ts";

/**
 * An immutable n-dimensional array in row-major order. The contents may lie in memory, in a file or
 * on a device; `data()` brings them to the host. A tensor's identity stands for its contents:
 * devices keep their copy of a weight for as long as the same object is used.
 */
export interface Tensor {
  /** Element type. */
  readonly dtype: DType;
  /** Dimensions, outermost first; `[]` for a scalar. */
  readonly shape: readonly number[];
  /** Where the contents are now: in memory, in a file, or on a device. */
  readonly where: "host" | "file" | "device";
  /**
   * The contents as a typed array (bits for 16-bit floats, raw blocks for block types). Do not
   * write to it.
   */
  data(): Promise<TypedArray>;
}

/**
 * A tensor over values that are already in memory.
 *
 * @param data A typed array (not copied), or nested/flat numbers, which become `f32` unless `dtype`
 * says otherwise.
 * @param options `shape` defaults to one dimension (or to the nesting); `dtype` to what the array
 * holds.
 * @throws {ShapeError} where the number of elements differs from the shape.
 *
 * @example
 * ```ts
 * import { tensor } from "@graft/peft";
 * const t = tensor([[1, 2], [3, 4]]);
 * console.log(t.shape, await t.data()); // [2, 2] Float32Array [1, 2, 3, 4]
 * ```
 */
export function tensor(
  data: TypedArray | NestedNumbers,
  options: { readonly shape?: readonly number[]; readonly dtype?: DType } = {},
): Tensor {
  let array: TypedArray;
  let shape: readonly number[];
  if (ArrayBuffer.isView(data)) {
    array = data as TypedArray;
    shape = options.shape ?? [array.length];
  } else {
    const flat: number[] = [];
    shape = options.shape ?? shapeOf(data as NestedNumbers);
    flatten(data as NestedNumbers, flat);
    const dtype = options.dtype ?? "f32";
    array = fromNumbers(flat, dtype);
  }
  const dtype = options.dtype ?? dtypeOf(array);
  if (array.byteLength !== byteLength(dtype, shape)) {
    throw new ShapeError(
      "TENSOR_SIZE",
      `A ${dtype} tensor of shape [${shape}] holds ${sizeOf(shape)} elements in ` +
        `${byteLength(dtype, shape)} bytes, but ${array.byteLength} bytes were given.`,
      { dtype, shape, bytes: array.byteLength },
    );
  }
  const contents = array;
  return {
    dtype,
    shape: Object.freeze([...shape]),
    where: "host",
    data: () => Promise.resolve(contents),
  };
}

/**
 * A tensor whose bytes are read only when they are asked for, and not kept.
 *
 * @param spec Element type and shape.
 * @param read Gives the little-endian bytes, each time it is called.
 */
export function lazyTensor(
  spec: {
    readonly dtype: DType;
    readonly shape: readonly number[];
    readonly where?: "file" | "device";
  },
  read: () => Promise<Uint8Array>,
): Tensor {
  const { dtype } = spec;
  return {
    dtype,
    shape: Object.freeze([...spec.shape]),
    where: spec.where ?? "file",
    data: async () => viewAs(await read(), dtype),
  };
}

/** Numbers, or arrays of them to any depth. */
export type NestedNumbers = number | readonly NestedNumbers[];

function shapeOf(data: NestedNumbers): number[] {
  const shape: number[] = [];
  for (let d = data; Array.isArray(d); d = d[0]) shape.push(d.length);
  return shape;
}

function flatten(data: NestedNumbers, out: number[]): void {
  if (typeof data === "number") out.push(data);
  else if (Array.isArray(data)) { for (const d of data) flatten(d, out); }
  else {
    throw new ShapeError(
      "TENSOR_DATA",
      `A tensor is made of a typed array or of (nested lists of) numbers; found ${show(data)}.`,
    );
  }
}

/** Types that plain numbers are stored as. */
const PLAIN: readonly DType[] = ["f64", "f32", "i32", "u32", "i64", "u8", "bool"];

function fromNumbers(values: readonly number[], dtype: DType): TypedArray {
  if (PLAIN.includes(dtype)) return arrayOf(dtype, values);
  throw new ShapeError(
    "TENSOR_DTYPE",
    `Plain numbers cannot be stored as ${dtype}; make an f32 tensor and convert it.`,
    { dtype },
  );
}

/** A tensor with the same contents in memory, whatever becomes of where they are. */
export async function onHost(stored: Tensor): Promise<Tensor> {
  const { dtype, shape } = stored;
  return tensor(await stored.data(), { dtype, shape });
}
