/**
 * `slice`: a box out of a value.
 *
 * @module
 */
import type { OnnxContext } from "./onnx-rule.ts";
import { sliceMap } from "./index-map.ts";
import type { Operation } from "./operation.ts";
import { pad } from "./pad.ts";
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
