/**
 * `dropoutMask`: random zeros from a counter-based generator.
 *
 * @module
 */
import { ONNX_TYPES, type OnnxContext } from "./onnx-rule.ts";
import { DROPOUT_HASH } from "../../kernels/scalar-functions.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Graph, Value } from "./value.ts";

/**
 * A mask that is 0 with probability `rate` and else 1 / (1 − rate). The element with flat index i is kept where
 * `hash(i, stream, seed) ≥ rate · 2³²`. The hash is a pair of rounds of 32-bit multiply–xor-shift mixing, and the same on every device: with
 * `mix(x)`: x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16 (Ellis, "lowbias32"),
 * hash = mix(i ^ mix(stream ^ mix(seed))).
 *
 * @param graph The graph that is being traced.
 * @param shape Shape of the mask.
 * @param options `seed` is an `i32` [1] that changes from step to step; `stream` tells apart the masks of one program.
 */
export function dropoutMask(
  graph: Graph,
  shape: readonly number[],
  options: { readonly seed: Value; readonly rate: number; readonly stream: number },
): Value {
  const { seed, rate, stream } = options;
  checkShapes(
    seed.dtype === "i32" && seed.shape.join() === "1" && rate > 0 && rate < 1,
    "dropoutMask",
    "an i32 seed [1] and a rate between 0 and 1",
    [seed],
  );
  return graph.node("dropoutMask", [seed], { rate, stream, shape }, { shape, dtype: "f32" });
}

function emitDropoutMask({ node, inputs, emit, scalar, ints }: OnnxContext): string {
  const { rate, stream } = node.attributes as { rate: number; stream: number };
  const xor = (a: string, b: string) => emit("BitwiseXor", [a, b]);
  const shifted = (x: string, by: number) =>
    emit("BitShift", [x, scalar(by, "u32")], { direction: "RIGHT" });
  const times = (x: string, by: number) => emit("Mul", [x, scalar(by, "u32")]);
  const mix = (x: string) => {
    x = times(xor(x, shifted(x, 16)), 0x7feb352d);
    x = times(xor(x, shifted(x, 15)), 0x846ca68b);
    return xor(x, shifted(x, 16));
  };
  const seed = mix(emit("Cast", inputs, { to: ONNX_TYPES.u32 }));
  const key = mix(xor(scalar(stream >>> 0, "u32"), seed));
  const count = emit("Range", [
    scalar(0, "i64"),
    scalar(sizeOf(node.shape), "i64"),
    scalar(1, "i64"),
  ]);
  const hash = mix(xor(emit("Cast", [count], { to: ONNX_TYPES.u32 }), key));
  const kept = emit("GreaterOrEqual", [hash, scalar(Math.ceil(rate * 2 ** 32), "u32")]);
  const mask = emit("Mul", [emit("Cast", [kept], { to: ONNX_TYPES.f32 }), scalar(1 / (1 - rate))]);
  return emit("Reshape", [mask, ints(node.shape)]);
}

/** The rules of `dropoutMask`. */
export const dropoutMaskOperation: Operation = {
  name: "dropoutMask",
  gradient: null,
  onnx: { emit: emitDropoutMask },
  flops: (node) => 10 * sizeOf(node.shape),
  kernel: {
    kind: "elementwise",
    expression: (node, [seed], { index, sizes }) => {
      const { rate, stream } = node.attributes as { rate: number; stream: number };
      const hash = `dropoutHash(${index}, ${sizes.u32(stream)}, bitcast<u32>(${seed}))`;
      const kept = `${hash} >= ${sizes.u32(Math.ceil(rate * 2 ** 32))}`;
      return `select(0.0, ${sizes.f32(1 / (1 - rate))}, ${kept})`;
    },
    functions: () => [DROPOUT_HASH],
  },
};
