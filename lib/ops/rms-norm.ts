/**
 * `rmsNorm`: root-mean-square normalisation (Zhang and Sennrich, 2019, arXiv:1910.07467).
 *
 * @module
 */
import { rowVariants } from "../../kernels/rows.ts";
import { rmsNormKernel } from "../../kernels/norm.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { add, mul, rsqrt, sub } from "./elementwise.ts";
import type { Operation } from "./operation.ts";
import { mean } from "./reduce.ts";
import { checkShapes } from "./shapes.ts";
import { rows } from "./split-rule.ts";
import type { Value } from "./value.ts";

/** x / √(mean(x²) + ε) · weight over the last axis; `weight` has that axis' length. */
export function rmsNorm(x: Value, weight: Value, options: { readonly epsilon: number }): Value {
  checkShapes(
    x.dtype === "f32" && weight.dtype === "f32" && weight.shape.length === 1 &&
      weight.shape[0] === x.shape[x.shape.length - 1],
    "rmsNorm",
    "f32 rows and a weight as long as a row",
    [x, weight],
  );
  return x.graph.node("rmsNorm", [x, weight], { epsilon: options.epsilon }, x);
}

/** The rules of `rmsNorm`. */
export const rmsNormOperation: Operation = {
  name: "rmsNorm",
  gradient: (node, g) => {
    const [x, weight] = node.inputs;
    const last = { axes: [-1], keepDims: true } as const;
    const scale = () => rsqrt(add(mean(mul(x, x), last), node.attributes.epsilon as number));
    return [
      () => {
        const r = scale(), h = mul(x, r), gw = mul(g, weight);
        return mul(r, sub(gw, mul(h, mean(mul(gw, h), last))));
      },
      () => mul(g, mul(x, scale())),
    ];
  },
  onnx: {
    emit: ({ node, inputs, emit }) =>
      emit("SimplifiedLayerNormalization", inputs, {
        axis: -1,
        epsilon: { float: node.attributes.epsilon as number },
      }),
  },
  split: rows({ shared: [1], inner: 1 }),
  flops: (node) => 4 * sizeOf(node.shape),
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node, features) => {
      const length = node.shape[node.shape.length - 1];
      const epsilon = node.attributes.epsilon as number;
      const size = { rows: sizeOf(node.shape) / length, length, epsilon };
      return rowVariants((options) => rmsNormKernel(size, options), features);
    },
  },
};
