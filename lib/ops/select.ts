/**
 * `select`: one of two values, element by element.
 *
 * @module
 */
import { emitSelect } from "./onnx-elementwise.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { constant } from "./constant.ts";
import type { Operand } from "./elementwise.ts";
import type { Operation } from "./operation.ts";
import { broadcastShapes, checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/** `a` where the condition holds, else `b`; all three broadcast. At least one of `a` and `b` is a value. */
export function select(condition: Value, a: Operand, b: Operand): Value {
  const dtype = typeof a === "number" ? typeof b === "number" ? "f32" : b.dtype : a.dtype;
  const x = typeof a === "number" ? constant(condition.graph, a, { dtype }) : a;
  const y = typeof b === "number" ? constant(condition.graph, b, { dtype }) : b;
  checkShapes(
    condition.dtype === "bool" && x.dtype === y.dtype,
    "select",
    "a bool condition and two values of one type",
    [condition, x, y],
  );
  const shape = broadcastShapes(condition.shape, broadcastShapes(x.shape, y.shape));
  return condition.graph.node("select", [condition, x, y], {}, { shape, dtype });
}

/** The rules of `select`. */
export const selectOperation: Operation = {
  name: "select",
  gradient: (node, g) => {
    const [c] = node.inputs;
    return [null, () => select(c, g, 0), () => select(c, 0, g)];
  },
  onnx: { emit: emitSelect },
  flops: (node) => sizeOf(node.shape),
  kernel: { kind: "elementwise", expression: (_node, [c, a, b]) => `select(${b}, ${a}, ${c})` },
};
