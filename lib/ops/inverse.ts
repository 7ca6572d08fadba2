/**
 * `inverse`: inverses of small square matrices.
 *
 * @module
 */
import { inverseKernel } from "../../kernels/inverse.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { matmul } from "./matmul.ts";
import { MICROSOFT } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import { neg } from "./elementwise.ts";
import type { Value } from "./value.ts";

/** The inverse of each matrix of `x` [..., N, N], f32. What is singular gives infinities or NaN. */
export function inverse(x: Value): Value {
  const [rows, columns] = x.shape.slice(-2);
  checkShapes(
    x.dtype === "f32" && x.shape.length >= 2 && rows === columns,
    "inverse",
    "f32 square matrices",
    [x],
  );
  return x.graph.node("inverse", [x], {}, x);
}

/** The rules of `inverse`. */
export const inverseOperation: Operation = {
  name: "inverse",
  // d(A⁻¹) = −A⁻¹ · dA · A⁻¹
  gradient: (node, g) => [
    () => neg(matmul(matmul(node, g, { transposeA: true }), node, { transposeB: true })),
  ],
  onnx: { emit: ({ inputs, emit }) => emit("Inverse", inputs, {}, MICROSOFT) },
  flops: (node) => 2 * sizeOf(node.shape) * node.shape[node.shape.length - 1],
  kernel: {
    kind: "kernel",
    variants: (node) => {
      const side = node.shape[node.shape.length - 1];
      return [inverseKernel({ count: sizeOf(node.shape) / side ** 2, side })];
    },
  },
};
