/**
 * How an operation on values that are larger than one binding is split into operations on parts of them.
 *
 * @module
 */
import type { NodeSpec } from "../../kernels/kernel-rule.ts";
import type { Spec } from "./value.ts";

/** Axes along which an operation works on one part after the other. */
export interface Cut {
  /** The axis along which the parts make up the output; `null` where each is of its shape and they are joined. */
  readonly output: number | null;
  /** The axis of each input that goes with it; `null` where all parts read the whole. */
  readonly inputs: readonly (number | null)[];
  /** The input that holds places along the axis: each part sees those that lie in it, and the output is made of those, or zero. */
  readonly ids?: number;
  /** How parts are joined that do not make up the output, where there are no ids; "sum" by default. */
  readonly join?: "sum" | "max";
}

/** The cut of a node, of which something is larger than one binding; `null` where it has none. */
export type SplitRule = (node: NodeSpec, isLarge: (v: Spec) => boolean) => Cut | null;

/** The first axis that is longer than 1. */
export function firstAxis(shape: readonly number[]): number {
  return Math.max(0, shape.findIndex((d) => d > 1));
}

/** The axis of an input that is an output's `axis` where the two are broadcast together, if it is as long. */
export function alignedAxis(x: Spec, node: Spec, axis: number): number | null {
  const own = axis - node.shape.length + x.shape.length;
  return own >= 0 && x.shape[own] === node.shape[axis] ? own : null;
}

/**
 * Cuts along the output's first axis, which the inputs have too.
 *
 * @param options `shared` are the inputs that all rows share; `inner` is the number of last axes that belong together.
 */
export function rows(
  options: { readonly shared?: readonly number[]; readonly inner?: number } = {},
): SplitRule {
  const { shared = [], inner = 0 } = options;
  return (node) => {
    const axis = firstAxis(node.shape);
    if (axis >= node.shape.length - inner) return null;
    const inputs = node.inputs.map((x, i) =>
      !shared.includes(i) && x.shape[axis] === node.shape[axis] ? axis : null
    );
    return { output: axis, inputs };
  };
}

/** Cuts along the first axis of an output that the inputs are broadcast to. */
export const broadcastRows: SplitRule = (node) => {
  const axis = firstAxis(node.shape);
  return { output: axis, inputs: node.inputs.map((x) => alignedAxis(x, node, axis)) };
};
