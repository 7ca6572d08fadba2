/**
 * `softmax` over the last axis.
 *
 * @module
 */
import { rowVariants } from "../../kernels/rows.ts";
import { softmaxKernel } from "../../kernels/softmax.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { mul, sub } from "./elementwise.ts";
import type { Operation } from "./operation.ts";
import { sum } from "./reduce.ts";
import { checkShapes } from "./shapes.ts";
import { rows } from "./split-rule.ts";
import type { Value } from "./value.ts";

/** exp(x) / Σ exp(x) over the last axis, computed from x − max(x). */
export function softmax(x: Value): Value {
  checkShapes(
    x.dtype === "f32" && x.shape.length > 0,
    "softmax",
    "an f32 value of rank 1 or more",
    [x],
  );
  return x.graph.node("softmax", [x], {}, x);
}

/** The rules of `softmax`. */
export const softmaxOperation: Operation = {
  name: "softmax",
  gradient: (node, g) => [
    () => mul(node, sub(g, sum(mul(g, node), { axes: [-1], keepDims: true }))),
  ],
  onnx: { emit: ({ inputs, emit }) => emit("Softmax", inputs, { axis: -1 }) },
  split: rows({ inner: 1 }),
  flops: (node) => 5 * sizeOf(node.shape),
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node, features) => {
      const length = node.shape[node.shape.length - 1];
      const size = { rows: sizeOf(node.shape) / length, length };
      return rowVariants((options) => softmaxKernel(size, options), features);
    },
  },
};
