/**
 * `layerNorm`: layer normalisation (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).
 *
 * @module
 */
import { rowVariants } from "../../kernels/rows.ts";
import { layerNormKernel } from "../../kernels/norm.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { add, mul, rsqrt, sub } from "./elementwise.ts";
import type { Operation } from "./operation.ts";
import { mean } from "./reduce.ts";
import { checkShapes } from "./shapes.ts";
import { rows } from "./split-rule.ts";
import type { Value } from "./value.ts";

/** (x − mean) / √(variance + ε) · weight + bias over the last axis; weight and bias have that axis' length. */
export function layerNorm(
  x: Value,
  parameters: { readonly weight: Value; readonly bias: Value; readonly epsilon: number },
): Value {
  const { weight, bias, epsilon } = parameters;
  checkShapes(
    [x, weight, bias].every((v) =>
      v.dtype === "f32" && v.shape[v.shape.length - 1] === x.shape[x.shape.length - 1]
    ) &&
      weight.shape.length === 1 && bias.shape.length === 1,
    "layerNorm",
    "f32 rows, and a weight and a bias as long as a row",
    [x, weight, bias],
  );
  return x.graph.node("layerNorm", [x, weight, bias], { epsilon }, x);
}

/** The rules of `layerNorm`. */
export const layerNormOperation: Operation = {
  name: "layerNorm",
  gradient: (node, g) => {
    const [x, weight] = node.inputs;
    const last = { axes: [-1], keepDims: true } as const;
    const parts = () => {
      const c = sub(x, mean(x, last));
      const r = rsqrt(add(mean(mul(c, c), last), node.attributes.epsilon as number));
      return { r, h: mul(c, r) };
    };
    return [
      () => {
        const { r, h } = parts(), gw = mul(g, weight);
        return mul(r, sub(sub(gw, mean(gw, last)), mul(h, mean(mul(gw, h), last))));
      },
      () => mul(g, parts().h),
      () => g,
    ];
  },
  onnx: {
    emit: ({ node, inputs, emit }) =>
      emit("LayerNormalization", inputs, {
        axis: -1,
        epsilon: { float: node.attributes.epsilon as number },
      }),
  },
  split: rows({ shared: [1, 2], inner: 1 }),
  flops: (node) => 8 * sizeOf(node.shape),
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node, features) => {
      const length = node.shape[node.shape.length - 1];
      const epsilon = node.attributes.epsilon as number;
      const size = { rows: sizeOf(node.shape) / length, length, epsilon };
      return rowVariants((options) => layerNormKernel(size, options), features);
    },
  },
};
