/**
 * `constant`: a value that is part of the program.
 *
 * @module
 */
import { arrayOf, sizeOf } from "../tensor/dtype.ts";
import { type OnnxContext, onnxTypeOf } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Graph, Value, ValueType } from "./value.ts";

/**
 * A constant. One number fills the shape; a list gives every element. Large contents belong in an input.
 *
 * @param graph The graph that is being traced.
 * @param value A number, or the elements in row-major order.
 * @param options `shape` defaults to `[]` for a number and to one dimension for a list; `dtype` to `f32`.
 */
export function constant(
  graph: Graph,
  value: number | readonly number[],
  options: { readonly shape?: readonly number[]; readonly dtype?: ValueType } = {},
): Value {
  const shape = options.shape ?? (typeof value === "number" ? [] : [value.length]);
  const spec = { shape, dtype: options.dtype ?? "f32" as const };
  checkShapes(
    typeof value === "number" || value.length === sizeOf(shape),
    "constant",
    `as many numbers as its shape holds`,
    [spec],
  );
  return graph.node("constant", [], { value, shape, dtype: spec.dtype }, spec);
}

/** The number that fills a constant, if one does. */
export function scalarOf({ op, attributes: { value } }: Value): number | undefined {
  return op === "constant" && typeof value === "number" ? value : undefined;
}

function emitConstant({ node, constant: initializer, scalar, emit, ints }: OnnxContext): string {
  const { value } = node.attributes;
  const type = onnxTypeOf(node.dtype);
  if (typeof value === "number") {
    const x = scalar(value, type);
    return node.shape.length ? emit("Expand", [x, ints(node.shape)]) : x;
  }
  const numbers = value as readonly number[];
  const stored = type === "bool" ? numbers.map((v) => v ? 1 : 0) : numbers;
  return initializer(arrayOf(type, stored), node.shape, type);
}

/** The rules of `constant`. */
export const constantOperation: Operation = {
  name: "constant",
  gradient: null,
  onnx: { emit: emitConstant },
  flops: () => 0,
  work: () => 0,
  kernel: {
    kind: "elementwise",
    expression: (node, _inputs, { sizes }) =>
      sizes.scalar(node.attributes.value as number, node.dtype),
  },
};
