/**
 * `iota`: each element's index along one axis.
 *
 * @module
 */
import type { OnnxContext } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { sizeOf, stridesOf } from "../tensor/dtype.ts";
import { normalizeAxis } from "./shapes.ts";
import type { Graph, Value } from "./value.ts";

/** An `i32` value whose elements count 0, 1, 2 … along `axis`. */
export function iota(
  graph: Graph,
  shape: readonly number[],
  options: { readonly axis: number },
): Value {
  const axis = normalizeAxis(options.axis, shape.length);
  return graph.node("iota", [], { axis, shape }, { shape, dtype: "i32" });
}

function emitIota({ node, constant, emit, ints }: OnnxContext): string {
  const axis = node.attributes.axis as number, n = node.shape[axis];
  const count = constant(
    Int32Array.from({ length: n }, (_, i) => i),
    node.shape.map((_, i) => i === axis ? n : 1),
  );
  return node.shape.every((d, i) => i === axis || d === 1)
    ? count
    : emit("Expand", [count, ints(node.shape)]);
}

/** The rules of `iota`. */
export const iotaOperation: Operation = {
  name: "iota",
  gradient: null,
  onnx: { emit: emitIota },
  flops: () => 0,
  kernel: {
    kind: "elementwise",
    expression: (node, _inputs, { index, sizes }) => {
      const axis = node.attributes.axis as number;
      const stride = stridesOf(node.shape)[axis], size = sizeOf(node.shape);
      const steps = sizes.divisor(stride, size).quotient(index);
      return `i32(${sizes.divisor(node.shape[axis], size / stride).remainder(steps)})`;
    },
  },
};
