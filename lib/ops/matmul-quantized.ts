/**
 * `matmulQuantized`: a matrix product with a block-quantized weight.
 *
 * @module
 */
import { matmulKernels } from "../../kernels/matmul.ts";
import type { Operand } from "../../kernels/operand.ts";
import { emitMatmulQuantized } from "./onnx-quantized.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Operation } from "./operation.ts";
import { reshape } from "./reshape.ts";
import { checkShapes } from "./shapes.ts";
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

/**
 * `x` [..., K] times a quantized weight. With `transposeB` (a linear layer's forward pass) the weight is [N, K] and the
 * result [..., N]; without (its gradient) the weight is [K, N].
 */
export function matmulQuantized(
  x: Value,
  weight: QuantizedValue,
  options: { readonly transposeB?: boolean } = {},
): Value {
  const { transposeB = false } = options;
  const [rows, columns] = quantizedShape(weight);
  const [k, n] = transposeB ? [columns, rows] : [rows, columns];
  checkShapes(
    x.dtype === "f32" && x.shape[x.shape.length - 1] === k,
    "matmulQuantized",
    `f32 rows of ${k} elements`,
    [x],
  );
  const flat = reshape(x, [-1, k]);
  const y = x.graph.node(
    "matmulQuantized",
    [flat, ...quantizedInputs(weight)],
    { bits: weight.bits, block: weight.block, transposeB },
    { shape: [flat.shape[0], n], dtype: "f32" },
  );
  return reshape(y, [...x.shape.slice(0, -1), n]);
}

/** The rules of `matmulQuantized`; the weight itself is never trained. */
export const matmulQuantizedOperation: Operation = {
  name: "matmulQuantized",
  gradient: (node, g) => [
    () => matmulQuantized(g, quantizedOf(node, 1), { transposeB: !node.attributes.transposeB }),
    ...node.inputs.slice(1).map(() => null),
  ],
  onnx: { emit: emitMatmulQuantized },
  flops: (node) => 2 * sizeOf(node.shape) * node.inputs[0].shape[1],
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node, features) => {
      const [m, k] = node.inputs[0].shape;
      const a: Operand = { format: "f32", lines: m, length: k, bindings: [0] };
      return matmulKernels({
        m,
        n: node.shape[1],
        k,
        batch: [],
        a: { operand: a, kMajor: false, batch: [] },
        b: {
          operand: quantizedOperand(node, 1),
          kMajor: !node.attributes.transposeB,
          batch: [],
        },
      }, features);
    },
  },
};
