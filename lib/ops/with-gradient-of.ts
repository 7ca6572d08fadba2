/**
 * `withGradientOf`: the value itself, through which gradients flow to another one.
 *
 * @module
 */
import type { Operation } from "./operation.ts";
import { checkShapes, sameShape } from "./shapes.ts";
import type { Value } from "./value.ts";

/**
 * A value with other derivatives than its own: those of a second one, of which nothing but what the
 * gradient needs is ever computed.
 *
 * @param x The value.
 * @param other A value of the same shape.
 *
 * @example
 * ```ts
 * import { floor, trace, withGradientOf } from "@graft/peft";
 * import { input } from "@graft/peft";
 * // Rounds down, with a gradient as if it did not.
 * const program = trace((graph) => {
 *   const x = input(graph, "x", { shape: [3], dtype: "f32" });
 *   return { y: withGradientOf(floor(x), x) };
 * });
 * console.log(program.outputs.get("y")!.shape); // [3]
 * ```
 */
export function withGradientOf(x: Value, other: Value): Value {
  checkShapes(sameShape(x.shape, other.shape), "withGradientOf", "two values of one shape", [
    x,
    other,
  ]);
  return x.graph.node("withGradientOf", [x, other], {}, x);
}

/** The rules of `withGradientOf`; the pass `simplify` removes the nodes once gradients exist. */
export const withGradientOfOperation: Operation = {
  name: "withGradientOf",
  gradient: (_node, g) => [null, () => g],
  onnx: { decompose: (_node, [x]) => x },
  flops: () => 0,
  kernel: { kind: "view" },
};
