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
 * A mask that is 0 with probability `rate`, in steps of 2⁻¹⁶, and else 1 / (1 − rate). The element with flat index i, counted from row 0 on, is
 * kept where its half of `hash(i >> 1, stream, seed)`, the lower one for even i, is at least `rate · 2¹⁶`. The hash is a pair of rounds of 32-bit
 * multiply–xor-shift mixing, and the same on every device: with
 * `mix(x)`: x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16 (Ellis, "lowbias32"),
 * hash(i, stream, seed) = mix(i ^ mix(stream ^ mix(seed))).
 *
 * @param graph The graph that is being traced.
 * @param shape Shape of the mask.
 * @param options `seed` is an `i32` [1] that changes from step to step; `stream` tells apart the masks of one program; `firstRow`, an `i32`
 * [1], is the number of the first row (0 by default), so that parts of a batch get the parts of its mask.
 */
export function dropoutMask(
  graph: Graph,
  shape: readonly number[],
  options: {
    readonly seed: Value;
    readonly rate: number;
    readonly stream: number;
    readonly firstRow?: Value;
  },
): Value {
  const { seed, rate, stream, firstRow } = options;
  const inputs = firstRow ? [seed, firstRow] : [seed];
  checkShapes(
    inputs.every((x) => x.dtype === "i32" && x.shape.join() === "1") && rate > 0 && rate < 1,
    "dropoutMask",
    "an i32 seed [1], perhaps an i32 first row [1], and a rate between 0 and 1",
    inputs,
  );
  return graph.node("dropoutMask", inputs, { rate, stream, shape }, { shape, dtype: "f32" });
}

/** Elements of a row of a mask. */
function rowSize({ shape }: { readonly shape: readonly number[] }): number {
  return sizeOf(shape.slice(1));
}

/** The smallest half of a hash that keeps its element. */
export function dropoutThreshold(rate: number): number {
  return Math.round(rate * 2 ** 16);
}

/** Each element's flat index, counted from row 0 on, `u32` [n]. */
export function emitIndex({ node, inputs, emit, scalar }: OnnxContext): string {
  const unsigned = (x: string) => emit("Cast", [x], { to: ONNX_TYPES.u32 });
  const range = [0, sizeOf(node.shape), 1].map((n) => scalar(n, "i64"));
  const index = unsigned(emit("Range", range));
  if (inputs.length === 1) return index;
  const start = emit("Mul", [unsigned(inputs[1]), scalar(rowSize(node), "u32")]);
  return emit("Add", [index, start]);
}

/** The hashes of indices, `u32` [n]. */
export function emitHash({ node, inputs, emit, scalar }: OnnxContext, index: string): string {
  const { stream } = node.attributes as { stream: number };
  const xor = (a: string, b: string) => emit("BitwiseXor", [a, b]);
  const shifted = (x: string, by: number) =>
    emit("BitShift", [x, scalar(by, "u32")], { direction: "RIGHT" });
  const times = (x: string, by: number) => emit("Mul", [x, scalar(by, "u32")]);
  const mix = (x: string) => {
    x = times(xor(x, shifted(x, 16)), 0x7feb352d);
    x = times(xor(x, shifted(x, 15)), 0x846ca68b);
    return xor(x, shifted(x, 16));
  };
  const seed = mix(emit("Cast", [inputs[0]], { to: ONNX_TYPES.u32 }));
  return mix(xor(index, mix(xor(scalar(stream >>> 0, "u32"), seed))));
}

function emitDropoutMask(context: OnnxContext): string {
  const { node, emit, scalar, ints } = context;
  const { rate } = node.attributes as { rate: number };
  const unsigned = (n: number) => scalar(n, "u32");
  const right = (x: string, by: string) => emit("BitShift", [x, by], { direction: "RIGHT" });
  const index = emitIndex(context), hash = emitHash(context, right(index, unsigned(1)));
  const place = emit("Mul", [emit("BitwiseAnd", [index, unsigned(1)]), unsigned(16)]);
  const half = emit("BitwiseAnd", [right(hash, place), unsigned(0xffff)]);
  const kept = emit("GreaterOrEqual", [half, unsigned(dropoutThreshold(rate))]);
  const mask = emit("Mul", [emit("Cast", [kept], { to: ONNX_TYPES.f32 }), scalar(1 / (1 - rate))]);
  return emit("Reshape", [mask, ints(node.shape)]);
}

/** The rules of `dropoutMask`. */
export const dropoutMaskOperation: Operation = {
  name: "dropoutMask",
  gradient: null,
  onnx: { emit: emitDropoutMask },
  // Its elements depend on where they are; kernels that use it compute it in place.
  split: null,
  flops: (node) => 10 * sizeOf(node.shape),
  work: () => 14,
  kernel: {
    kind: "elementwise",
    expression: (node, [seed, row], { index, sizes }) => {
      const { rate, stream } = node.attributes as { rate: number; stream: number };
      const at = row ? `${index} + bitcast<u32>(${row}) * ${sizes.u32(rowSize(node))}` : index;
      const hash = `dropoutHash((${at}) >> 1u, ${sizes.u32(stream)}, bitcast<u32>(${seed}))`;
      const half = `(${hash} >> (((${at}) & 1u) * 16u)) & 0xffffu`;
      const kept = `(${half}) >= ${sizes.u32(dropoutThreshold(rate))}`;
      return `select(0.0, ${sizes.f32(1 / (1 - rate))}, ${kept})`;
    },
    functions: () => [DROPOUT_HASH],
  },
};
