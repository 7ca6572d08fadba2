/**
 * `cast`: another element type.
 *
 * @module
 */
import { emitCast } from "./onnx-elementwise.ts";
import { BF16_FUNCTION, F16_FUNCTION, literal, STORAGE } from "../../kernels/wgsl.ts";
import type { Operation } from "./operation.ts";
import type { Value, ValueType } from "./value.ts";

/** Each element converted; floats become integers by dropping the fraction, `bool` becomes 0 or 1. */
export function cast(x: Value, dtype: ValueType): Value {
  return x.dtype === dtype ? x : x.graph.node("cast", [x], { dtype }, { shape: x.shape, dtype });
}

/** The rules of `cast`. */
export const castOperation: Operation = {
  name: "cast",
  gradient: (node, g) => {
    const from = node.inputs[0].dtype;
    return [/^(f|bf)/.test(from) && /^(f|bf)/.test(node.dtype) ? () => cast(g, from) : null];
  },
  onnx: { emit: emitCast },
  flops: () => 0,
  kernel: {
    kind: "elementwise",
    expression: (node, [x]) => {
      const from = STORAGE[node.inputs[0].dtype].register, to = STORAGE[node.dtype].register;
      if (to === "bool") return `(${x} != ${literal(0, node.inputs[0].dtype)})`;
      const y = from === to ? x : `${to}(${x})`;
      switch (node.dtype) {
        case "f16":
          return `roundF16(${y})`;
        case "bf16":
          return `bitcast<f32>(bf16Bits(${y}) << 16u)`;
        case "u8":
          return `(${y} & 255u)`;
        default:
          return y;
      }
    },
    functions: ({ dtype }) =>
      dtype === "bf16" ? [BF16_FUNCTION] : dtype === "f16" ? [F16_FUNCTION] : [],
  },
};
