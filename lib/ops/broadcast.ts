/**
 * `broadcast`: repeats a value along axes of length 1.
 *
 * @module
 */
import { broadcastMap } from "../../kernels/index-map.ts";
import type { Operation } from "./operation.ts";
import { broadcastShapes, checkShapes, sameShape } from "./shapes.ts";
import type { Value } from "./value.ts";

/** The value repeated to this shape. */
export function broadcast(x: Value, shape: readonly number[]): Value {
  if (sameShape(x.shape, shape)) return x;
  checkShapes(
    sameShape(broadcastShapes(x.shape, shape), shape),
    "broadcast",
    `a value that broadcasts to [${shape}]`,
    [x],
  );
  return x.graph.node("broadcast", [x], { shape }, { shape, dtype: x.dtype });
}

/** The rules of `broadcast`. */
export const broadcastOperation: Operation = {
  name: "broadcast",
  gradient: (_node, g) => [() => g],
  onnx: { emit: ({ node, inputs, emit, ints }) => emit("Expand", [inputs[0], ints(node.shape)]) },
  flops: () => 0,
  kernel: { kind: "layout", map: (node) => broadcastMap(node.inputs[0].shape, node.shape) },
};
