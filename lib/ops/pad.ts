/**
 * `pad`: zeros around a value.
 *
 * @module
 */
import { type OnnxContext, onnxTypeOf } from "./onnx-rule.ts";
import { sliceMap } from "./index-map.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Operation } from "./operation.ts";
import { checkShapes, stridesOf } from "./shapes.ts";
import { slice } from "./slice.ts";
import type { Value } from "./value.ts";

/** Adds `low[i]` zeros before and `high[i]` after along each axis. */
export function pad(
  x: Value,
  options: { readonly low: readonly number[]; readonly high: readonly number[] },
): Value {
  const { low, high } = options;
  checkShapes(
    low.length === x.shape.length && high.length === x.shape.length &&
      [...low, ...high].every((p) => p >= 0),
    "pad",
    `one padding ≥ 0 per axis and side (low [${low}], high [${high}])`,
    [x],
  );
  if ([...low, ...high].every((p) => p === 0)) return x;
  return x.graph.node("pad", [x], { low, high }, {
    shape: x.shape.map((d, i) => d + low[i] + high[i]),
    dtype: x.dtype,
  });
}

function emitPad({ node, inputs, emit, ints, scalar }: OnnxContext): string {
  const { low, high } = node.attributes as { low: readonly number[]; high: readonly number[] };
  return emit("Pad", [inputs[0], ints([...low, ...high]), scalar(0, onnxTypeOf(node.dtype))]);
}

/** The rules of `pad`. */
export const padOperation: Operation = {
  name: "pad",
  gradient: (node, g) => [
    () =>
      slice(g, { starts: node.attributes.low as readonly number[], sizes: node.inputs[0].shape }),
  ],
  onnx: { emit: emitPad },
  flops: () => 0,
  kernel: {
    kind: "layout",
    map: (node) =>
      sliceMap(node.inputs[0].shape, {
        starts: (node.attributes.low as readonly number[]).map((l) => -l),
        sizes: node.shape,
      }),
    inside: (node, { index, sizes }) => {
      const low = node.attributes.low as readonly number[], strides = stridesOf(node.shape);
      const from = node.inputs[0].shape;
      const axes = node.shape.map((_, i) => i).filter((i) => from[i] !== node.shape[i]);
      // One comparison for both ends: what lies before wraps around to a large number.
      const size = sizeOf(node.shape);
      return axes.map((i) => {
        const steps = strides[i] === 1 ? index : sizes.divisor(strides[i], size).quotient(index);
        const at = i === 0
          ? steps
          : sizes.divisor(node.shape[i], size / strides[i]).remainder(steps);
        return `(${at} - ${sizes.u32(low[i])} < ${sizes.u32(from[i])})`;
      }).join(" && ");
    },
  },
};
