/**
 * `uniform`: random numbers from a counter-based generator.
 *
 * @module
 */
import { DROPOUT_HASH } from "../../kernels/scalar-functions.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { emitHash, emitIndex } from "./dropout-mask.ts";
import { ONNX_TYPES, type OnnxContext } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Graph, Value } from "./value.ts";

/**
 * Numbers from 0 up to, not including, 1, in steps of 2⁻²⁴: the upper bits of the hash that
 * `dropoutMask` compares, so the same on every device.
 *
 * @param graph The graph that is being traced.
 * @param shape Shape of the value.
 * @param options `seed` is an `i32` [1] that changes from step to step; `stream` tells apart the draws of one program.
 */
export function uniform(
  graph: Graph,
  shape: readonly number[],
  options: { readonly seed: Value; readonly stream: number },
): Value {
  const { seed, stream } = options;
  checkShapes(
    seed.dtype === "i32" && seed.shape.join() === "1",
    "uniform",
    "an i32 seed [1]",
    [seed],
  );
  return graph.node("uniform", [seed], { stream, shape }, { shape, dtype: "f32" });
}

function emitRandomUniform(context: OnnxContext): string {
  const { node, emit, scalar, ints } = context;
  const top = emit("BitShift", [emitHash(context, emitIndex(context)), scalar(8, "u32")], {
    direction: "RIGHT",
  });
  const numbers = emit("Mul", [emit("Cast", [top], { to: ONNX_TYPES.f32 }), scalar(2 ** -24)]);
  return emit("Reshape", [numbers, ints(node.shape)]);
}

/** The rules of `uniform`. */
export const uniformOperation: Operation = {
  name: "uniform",
  gradient: null,
  onnx: { emit: emitRandomUniform },
  split: null,
  flops: (node) => 10 * sizeOf(node.shape),
  work: () => 14,
  kernel: {
    kind: "elementwise",
    expression: (node, [seed], { index, sizes }) => {
      const { stream } = node.attributes as { stream: number };
      return `f32(dropoutHash(${index}, ${sizes.u32(stream)}, bitcast<u32>(${seed})) >> 8u) * ${
        2 ** -24
      }`;
    },
    functions: () => [DROPOUT_HASH],
  },
};
