/**
 * `reduce`: sums and maxima over axes.
 *
 * @module
 */
import { emitReduce } from "./onnx-reduce.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { equal, mul } from "./elementwise.ts";
import { broadcast } from "./broadcast.ts";
import { cast } from "./cast.ts";
import type { Operation } from "./operation.ts";
import { reshape } from "./reshape.ts";
import { normalizeAxis } from "./shapes.ts";
import { firstAxis } from "./split-rule.ts";
import type { Value } from "./value.ts";

/** What a reduction computes. */
export type Reduction = "sum" | "max";

/** Which axes a reduction runs over (all by default) and whether they stay as 1. */
export interface ReduceOptions {
  /** Axes; negative ones count from the end. */
  readonly axes?: readonly number[];
  /** Keeps reduced axes with length 1. */
  readonly keepDims?: boolean;
}

function reduce(fn: Reduction, x: Value, options: ReduceOptions): Value {
  const axes = [
    ...new Set(
      (options.axes ?? x.shape.map((_, i) => i)).map((a) => normalizeAxis(a, x.shape.length)),
    ),
  ]
    .sort((a, b) => a - b);
  const kept = x.shape.map((d, i) => axes.includes(i) ? 1 : d);
  if (axes.every((a) => x.shape[a] === 1)) {
    return options.keepDims ? x : reshape(x, x.shape.filter((_, i) => !axes.includes(i)));
  }
  const y = x.graph.node("reduce", [x], { fn, axes }, { shape: kept, dtype: x.dtype });
  return options.keepDims ? y : reshape(y, x.shape.filter((_, i) => !axes.includes(i)));
}

/** Sum over axes. Both devices add pairwise or in blocks, so that long sums stay accurate in f32. */
export function sum(x: Value, options: ReduceOptions = {}): Value {
  return reduce("sum", x, options);
}

/** Largest element over axes. */
export function reduceMax(x: Value, options: ReduceOptions = {}): Value {
  return reduce("max", x, options);
}

/** Mean over axes. */
export function mean(x: Value, options: ReduceOptions = {}): Value {
  const y = sum(x, options);
  return mul(y, sizeOf(y.shape) / sizeOf(x.shape));
}

/** The rules of `reduce`; nodes keep the reduced axes as 1. */
export const reduceOperation: Operation = {
  name: "reduce",
  gradient: (node, g) => {
    const [x] = node.inputs;
    return [
      node.attributes.fn === "sum"
        ? () => broadcast(g, x.shape)
        : () => mul(g, cast(equal(x, node), "f32")),
    ];
  },
  onnx: { emit: emitReduce },
  split: ({ inputs: [x], attributes }) => {
    const axis = firstAxis(x.shape);
    const output = (attributes.axes as readonly number[]).includes(axis) ? null : axis;
    return { output, inputs: [axis], join: attributes.fn as Reduction };
  },
  flops: (node) => sizeOf(node.inputs[0].shape),
  kernel: { kind: "reduce" },
};
