/**
 * `reshape`: the same elements in the same order under another shape.
 *
 * @module
 */
import { sizeOf } from "../tensor/dtype.ts";
import type { Operation } from "./operation.ts";
import { checkShapes, sameShape } from "./shapes.ts";
import type { Value } from "./value.ts";

/** Another shape of the same size; one dimension may be −1, which means "what is left". */
export function reshape(x: Value, shape: readonly number[]): Value {
  const known = shape.reduce((n, d) => d === -1 ? n : n * d, 1);
  const full = shape.map((d) => d === -1 ? sizeOf(x.shape) / known : d);
  checkShapes(sizeOf(full) === sizeOf(x.shape), "reshape", `as many elements as [${shape}] holds`, [
    x,
  ]);
  if (sameShape(full, x.shape)) return x;
  return x.graph.node("reshape", [x], { shape: full }, { shape: full, dtype: x.dtype });
}

/**
 * A reshape of what `x` was reshaped from. Passes over whole programs use it; while a program is
 * traced, `x` may be what a gradient is wanted for, and must not be passed over.
 */
export function reshapeThrough(x: Value, shape: readonly number[]): Value {
  return x.op === "reshape" ? reshapeThrough(x.inputs[0], shape) : reshape(x, shape);
}

/** The rules of `reshape`. */
export const reshapeOperation: Operation = {
  name: "reshape",
  gradient: (node, g) => [() => reshape(g, node.inputs[0].shape)],
  onnx: { emit: ({ node, inputs, emit, ints }) => emit("Reshape", [inputs[0], ints(node.shape)]) },
  flops: () => 0,
  kernel: { kind: "view" },
};
