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
import {
  quantizedInputs,
  quantizedOf,
  quantizedOperand,
  quantizedShape,
  type QuantizedValue,
} from "./quantized-value.ts";
import type { Value } from "./value.ts";

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
  split: (node, isLarge) => {
    const [x, ...weight] = node.inputs;
    if (isLarge(node) || isLarge(x)) return { output: 0, inputs: [0, ...weight.map(() => null)] };
    const rows = weight.map(() => 0);
    return node.attributes.transposeB
      ? { output: 1, inputs: [null, ...rows] }
      : { output: null, inputs: [1, ...rows] };
  },
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
