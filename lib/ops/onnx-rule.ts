/**
 * How an operation is expressed in ONNX.
 *
 * @module
 */
import type { TypedArray } from "../tensor/dtype.ts";
import type { Value, ValueType } from "./value.ts";

/** Numbers of `TensorProto.DataType` for the element types that values of an ONNX graph have here. */
export const ONNX_TYPES = {
  f32: 1,
  u8: 2,
  i32: 6,
  i64: 7,
  bool: 9,
  f16: 10,
  f64: 11,
  u32: 12,
  bf16: 16,
} as const;

/** An element type inside an ONNX graph. */
export type OnnxType = keyof typeof ONNX_TYPES;

/** Domain of ONNX Runtime's own operators. */
export const MICROSOFT = "com.microsoft";

/** The type in which a value lies in an ONNX graph: 16-bit floats are computed in f32 and rounded where they are made. */
export function onnxTypeOf(dtype: ValueType): OnnxType {
  return dtype === "f16" || dtype === "bf16" ? "f32" : dtype;
}

/** An ONNX attribute: integers, floats (marked), strings or lists of them. */
export type OnnxAttribute =
  | number
  | string
  | readonly number[]
  | { readonly float: number }
  | { readonly floats: readonly number[] };

/** Attributes of an ONNX node by name. */
export type OnnxAttributes = Readonly<Record<string, OnnxAttribute>>;

/** What an emit rule writes to: names are ONNX value names. Equal nodes and constants are one. */
export interface OnnxContext {
  /** The node that is being lowered. */
  readonly node: Value;
  /** ONNX names of the node's inputs. */
  readonly inputs: readonly string[];
  /** Adds an ONNX node and gives the name of its (first) output. */
  emit(
    operator: string,
    inputs: readonly string[],
    attributes?: OnnxAttributes,
    domain?: string,
  ): string;
  /** An initializer with these contents. `type` tells `bool` from `u8`. */
  constant(data: TypedArray, shape: readonly number[], type?: OnnxType): string;
  /** An `i64` list, as ONNX takes shapes and axes. */
  ints(values: readonly number[]): string;
  /** A scalar of a value's type. */
  scalar(value: number, type?: OnnxType): string;
  /** Whether input number `index` is a weight whose contents may become part of the model. */
  embeddable(index: number): boolean;
  /**
   * An initializer made of the contents of the weight that is input number `index`. ONNX Runtime lays out constants for its kernels once, but keeps
   * them for itself: this is for weights that a kernel can only use so.
   */
  embed(
    index: number,
    options: {
      readonly shape: readonly number[];
      readonly type: OnnxType;
      /** Names the preparation; equal labels on one weight share an initializer. */
      readonly label: string;
      /** Makes the initializer's contents from those of the weight. */
      readonly prepare: (data: TypedArray) => TypedArray;
    },
  ): string;
}

/**
 * Either ONNX nodes for this operation, or other operations that compute the same.
 */
export type OnnxRule =
  | { readonly emit: (context: OnnxContext) => string }
  | { readonly decompose: (node: Value, inputs: readonly Value[]) => Value };
