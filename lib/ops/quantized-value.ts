/**
 * Block-quantized matrices as values of a program.
 *
 * @module
 */
import type { Operand } from "../../kernels/operand.ts";
import type { Value } from "./value.ts";

/**
 * A block-quantized matrix [rows, columns] as values of a program. Element (r, c) is
 * `(q − zeroPoint) · scale + offset` with the scale and offset of its block along the row, and zeroPoint 8 or 128.
 */
export interface QuantizedValue {
  /** `u8` [rows, columns · bits / 8]; 4-bit elements lie in pairs, the first in the low half. */
  readonly packed: Value;
  /** `f32` [rows, columns / block]. */
  readonly scales: Value;
  /** `f32` [rows, columns / block]; absent when all are zero. */
  readonly offsets?: Value;
  /** 4 or 8. */
  readonly bits: 4 | 8;
  /** Elements per block along a row. */
  readonly block: number;
}

/** Rows and columns of a quantized matrix. */
export function quantizedShape(w: QuantizedValue): readonly [number, number] {
  return [w.packed.shape[0], w.packed.shape[1] * 8 / w.bits];
}

/** The inputs of an operation on a quantized matrix, after its other inputs. */
export function quantizedInputs(w: QuantizedValue): Value[] {
  return w.offsets ? [w.packed, w.scales, w.offsets] : [w.packed, w.scales];
}

/** The quantized matrix that a node reads, from its inputs from number `from` on and its attributes. */
export function quantizedOf(node: Value, from: number): QuantizedValue {
  return {
    packed: node.inputs[from],
    scales: node.inputs[from + 1],
    offsets: node.inputs[from + 2],
    bits: node.attributes.bits as 4 | 8,
    block: node.attributes.block as number,
  };
}

/** The quantized matrix that a node reads from input number `from` on, as kernels see it. */
export function quantizedOperand(node: Value, from: number): Operand {
  const weight = quantizedOf(node, from);
  const { offsets, bits, block } = weight;
  const [lines, length] = quantizedShape(weight);
  return {
    format: { bits, block, offsets: offsets !== undefined },
    lines,
    length,
    bindings: offsets ? [from, from + 1, from + 2] : [from, from + 1],
  };
}
