/**
 * `slice`: a box out of a value; `pad`: zeros around one. Each is the gradient of the other.
 *
 * @module
 */
import { type OnnxContext, onnxTypeOf } from "./onnx-rule.ts";
import { sizeOf, stridesOf } from "../tensor/dtype.ts";
import { sliceMap } from "../../kernels/index-map.ts";
import type { Operation } from "./operation.ts";
import { checkShapes, sameShape } from "./shapes.ts";
import type { Value } from "./value.ts";

/** The elements from `starts[i]` on, `sizes[i]` of them, along each axis. */
export function slice(
  x: Value,
  options: { readonly starts: readonly number[]; readonly sizes: readonly number[] },
): Value {
  const { starts, sizes } = options;
  checkShapes(
    starts.length === x.shape.length && sizes.length === x.shape.length &&
      starts.every((s, i) => s >= 0 && sizes[i] > 0 && s + sizes[i] <= x.shape[i]),
    "slice",
    `a box inside the value (starts [${starts}], sizes [${sizes}])`,
    [x],
  );
  if (sameShape(sizes, x.shape)) return x;
  return x.graph.node("slice", [x], { starts, sizes }, { shape: sizes, dtype: x.dtype });
}

/** A slice along one axis only. */
export function sliceAxis(
  x: Value,
  options: { readonly axis: number; readonly start: number; readonly size: number },
): Value {
  const axis = options.axis < 0 ? options.axis + x.shape.length : options.axis;
  return slice(x, {
    starts: x.shape.map((_, i) => i === axis ? options.start : 0),
    sizes: x.shape.map((d, i) => i === axis ? options.size : d),
  });
}

function emitSlice({ node, inputs, emit, ints }: OnnxContext): string {
  const starts = node.attributes.starts as readonly number[];
  const axes = starts.map((_, i) => i).filter((i) => node.shape[i] !== node.inputs[0].shape[i]);
  return emit("Slice", [
    inputs[0],
    ints(axes.map((i) => starts[i])),
    ints(axes.map((i) => starts[i] + node.shape[i])),
    ints(axes),
  ]);
}

/** The rules of `slice`. */
export const sliceOperation: Operation = {
  name: "slice",
  gradient: (node, g) => {
    const starts = node.attributes.starts as readonly number[];
    const from = node.inputs[0].shape;
    return [() => pad(g, { low: starts, high: from.map((d, i) => d - starts[i] - node.shape[i]) })];
  },
  onnx: { emit: emitSlice },
  split: null,
  flops: () => 0,
  kernel: {
    kind: "layout",
    map: (node) =>
      sliceMap(node.inputs[0].shape, {
        starts: node.attributes.starts as readonly number[],
        sizes: node.shape,
      }),
  },
};

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
  split: null,
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
