/**
 * `dequantize`: a block-quantized matrix in f32.
 *
 * @module
 */
import { dequantizeKernel } from "../../kernels/gather.ts";
import { emitDequantize } from "./onnx-quantized.ts";
import { sizeOf } from "../tensor/dtype.ts";
import {
  quantizedInputs,
  quantizedOperand,
  quantizedShape,
  type QuantizedValue,
} from "./quantized-value.ts";
import type { Operation } from "./operation.ts";
import type { Value } from "./value.ts";

/** The whole matrix as `f32` [rows, columns]; for where the weight itself is needed, not its product. */
export function dequantize(weight: QuantizedValue): Value {
  return weight.packed.graph.node(
    "dequantize",
    quantizedInputs(weight),
    { bits: weight.bits, block: weight.block },
    { shape: quantizedShape(weight), dtype: "f32" },
  );
}

/** The rules of `dequantize`. */
export const dequantizeOperation: Operation = {
  name: "dequantize",
  gradient: null,
  onnx: { emit: (context) => emitDequantize(context, 0) },
  flops: (node) => 2 * sizeOf(node.shape),
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node) => [dequantizeKernel(quantizedOperand(node, 0))],
  },
};
