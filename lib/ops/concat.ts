/**
 * `concat`: values one after the other along an axis.
 *
 * @module
 */
import type { Operation } from "./operation.ts";
import { checkShapes, normalizeAxis } from "./shapes.ts";
import { sliceAxis } from "./slice.ts";
import { firstAxis, rows } from "./split-rule.ts";
import type { Value } from "./value.ts";

/** The values joined along `axis`; their other dimensions are equal. */
export function concat(values: readonly Value[], options: { readonly axis: number }): Value {
  checkShapes(values.length > 0, "concat", "at least one value", values);
  if (values.length === 1) return values[0];
  const [first] = values;
  const axis = normalizeAxis(options.axis, first.shape.length);
  checkShapes(
    values.every((v) =>
      v.dtype === first.dtype && v.shape.length === first.shape.length &&
      v.shape.every((d, i) => i === axis || d === first.shape[i])
    ),
    "concat",
    `values that differ in dimension ${axis} only`,
    values,
  );
  const total = values.reduce((n, v) => n + v.shape[axis], 0);
  return first.graph.node("concat", values, { axis }, {
    shape: first.shape.map((d, i) => i === axis ? total : d),
    dtype: first.dtype,
  });
}

/** The rules of `concat`. */
export const concatOperation: Operation = {
  name: "concat",
  gradient: (node, g) => {
    const axis = node.attributes.axis as number;
    let start = 0;
    return node.inputs.map((v) => {
      const from = start;
      start += v.shape[axis];
      return () => sliceAxis(g, { axis, start: from, size: v.shape[axis] });
    });
  },
  onnx: {
    emit: ({ node, inputs, emit }) =>
      emit("Concat", inputs, { axis: node.attributes.axis as number }),
  },
  split: (node, isLarge) =>
    node.attributes.axis === firstAxis(node.shape) ? null : rows()(node, isLarge),
  flops: () => 0,
  kernel: { kind: "concat" },
};
