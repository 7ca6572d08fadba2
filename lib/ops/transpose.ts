/**
 * `transpose`: axes in another order.
 *
 * @module
 */
import { transposeMap } from "../../kernels/index-map.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/** Axis `i` of the result is axis `permutation[i]` of the value; by default the last two change places. */
export function transpose(x: Value, permutation?: readonly number[]): Value {
  const rank = x.shape.length;
  const order = permutation ?? x.shape.map((_, i) => i < rank - 2 ? i : 2 * rank - 3 - i);
  checkShapes(
    order.length === rank && [...order].sort((a, b) => a - b).every((a, i) => a === i),
    "transpose",
    `a permutation of its axes (got [${order}])`,
    [x],
  );
  if (order.every((a, i) => a === i)) return x;
  return x.graph.node("transpose", [x], { permutation: order }, {
    shape: order.map((a) => x.shape[a]),
    dtype: x.dtype,
  });
}

/** The rules of `transpose`. */
export const transposeOperation: Operation = {
  name: "transpose",
  gradient: (node, g) => {
    const order = node.attributes.permutation as readonly number[];
    return [() => transpose(g, order.map((_, i) => order.indexOf(i)))];
  },
  onnx: {
    emit: ({ node, inputs, emit }) =>
      emit("Transpose", inputs, { perm: node.attributes.permutation as readonly number[] }),
  },
  split: null,
  flops: () => 0,
  kernel: {
    kind: "layout",
    map: (node) =>
      transposeMap(node.inputs[0].shape, node.attributes.permutation as readonly number[]),
  },
};
