/**
 * `gatherQuantized`: rows of a block-quantized table, in f32.
 *
 * @module
 */
import { dequantizeKernel } from "../../kernels/gather.ts";
import { emitGatherQuantized } from "./onnx-quantized.ts";
import { sizeOf } from "../tensor/dtype.ts";
import {
  quantizedInputs,
  quantizedOperand,
  quantizedShape,
  type QuantizedValue,
} from "./quantized-value.ts";
import type { Operation } from "./operation.ts";
import { reshape } from "./reshape.ts";
import { checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/** Rows of a quantized table [V, D] at `ids` (`i32`, any shape S): `f32` [...S, D]. */
export function gatherQuantized(table: QuantizedValue, ids: Value): Value {
  checkShapes(ids.dtype === "i32", "gatherQuantized", "i32 ids", [ids]);
  const columns = quantizedShape(table)[1];
  const flat = reshape(ids, [-1]);
  const y = ids.graph.node(
    "gatherQuantized",
    [flat, ...quantizedInputs(table)],
    { bits: table.bits, block: table.block },
    { shape: [flat.shape[0], columns], dtype: "f32" },
  );
  return reshape(y, [...ids.shape, columns]);
}

/** The rules of `gatherQuantized`. */
export const gatherQuantizedOperation: Operation = {
  name: "gatherQuantized",
  gradient: null,
  onnx: { emit: emitGatherQuantized },
  split: ({ inputs: [, ...table], ...node }, isLarge) =>
    isLarge(node)
      ? { output: 0, inputs: [0, ...table.map(() => null)] }
      : { output: null, inputs: [null, ...table.map(() => 0)], ids: 0 },
  flops: (node) => 2 * sizeOf(node.shape),
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node) => [
      dequantizeKernel(quantizedOperand(node, 1), { ids: { input: 0, count: node.shape[0] } }),
    ],
  },
};
