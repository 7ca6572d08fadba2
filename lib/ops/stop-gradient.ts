/**
 * `stopGradient`: the value itself, through which no gradient flows.
 *
 * @module
 */
import type { Operation } from "./operation.ts";
import type { Value } from "./value.ts";

/** The same value, taken as a constant by `grad`. */
export function stopGradient(x: Value): Value {
  return x.graph.node("stopGradient", [x], {}, x);
}

/** The rules of `stopGradient`; the pass `simplify` removes the nodes once gradients exist. */
export const stopGradientOperation: Operation = {
  name: "stopGradient",
  gradient: null,
  onnx: { decompose: (_node, [x]) => x },
  flops: () => 0,
  kernel: { kind: "view" },
};
