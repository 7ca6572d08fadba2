/**
 * Groups of nodes that run as one kernel, and what they read.
 *
 * @module
 */
import type { Leaf } from "../../kernels/expression.ts";
import {
  broadcastMap,
  composeMaps,
  identityMap,
  type IndexMap,
  isIdentity,
} from "../../kernels/index-map.ts";
import { operationOf } from "../ops/mod.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { View } from "./views.ts";

/** Nodes that run as one kernel. */
export interface Group {
  /**
   * - `elementwise`: computes its outputs, which have equally many elements, from what it reads.
   * - `reduce`: a `reduce` node with the elementwise nodes before and after it.
   * - `kernel`: a node with its own kernels, and perhaps elementwise nodes after it.
   * - `concat`: a `concat` node.
   */
  readonly kind: "elementwise" | "reduce" | "kernel" | "concat";
  /** The node around which the group is built; null for elementwise groups. */
  readonly node: Value | null;
  /** The values that get a buffer. */
  readonly outputs: readonly Value[];
  /** Values whose buffers it reads: stored ones, or views of such. */
  readonly reads: readonly Value[];
}

/** Where the values of a program lie, and which of them have a buffer. */
export interface Storage {
  /** Where values lie. */
  readonly views: ReadonlyMap<Value, View>;
  /** All values that have a buffer: inputs, constants and the outputs of groups. */
  readonly stored: ReadonlySet<Value>;
}

/** The buffer in which a value lies for a group that reads it, or null where the group computes it. */
export function leafOf(
  storage: Storage,
  group: Pick<Group, "outputs">,
): (value: Value) => Leaf | null {
  return (value) => {
    const { root, offset } = storage.views.get(value)!;
    if (!storage.stored.has(root) || group.outputs.includes(root)) return null;
    return { key: `${root.id}+${offset}`, value };
  };
}

/** Keys of the leaves that an elementwise group reads only at the index of the element that it computes. */
export function pointwiseLeaves(
  storage: Storage,
  group: Group,
): ReadonlySet<string> {
  const leaf = leafOf(storage, group);
  const all = new Set<string>(), moved = new Set<string>();
  for (const o of group.outputs) {
    visitLeaves(o, {
      leaf,
      visit: (v, map) => {
        const { key } = leaf(v)!;
        all.add(key);
        if (map === null || !isIdentity(map)) moved.add(key);
      },
    });
  }
  return all.difference(moved);
}

/** Calls `visit` with each leaf of an expression, and how it is indexed (null where that is not affine). */
export function visitLeaves(
  root: Value,
  options: {
    readonly leaf: (v: Value) => Leaf | null;
    /** Taken as a leaf, but not visited. */
    readonly stop?: Value;
    readonly visit: (v: Value, map: IndexMap | null) => void;
    readonly visitStop?: (map: IndexMap | null) => void;
  },
): void {
  const seen = new Map<Value, Set<string>>();
  const go = (v: Value, map: IndexMap | null) => {
    const key = map ? JSON.stringify(map) : "";
    const known = seen.get(v) ?? new Set();
    seen.set(v, known);
    if (known.has(key)) return;
    known.add(key);
    if (v === options.stop) return options.visitStop?.(map);
    if (options.leaf(v)) return options.visit(v, map);
    const rule = operationOf(v).kernel;
    if (rule?.kind === "view") return go(v.inputs[0], map);
    for (const x of v.inputs) {
      const inner = rule?.kind === "layout"
        ? rule.map(v)
        : sizeOf(x.shape) === sizeOf(v.shape)
        ? null
        : broadcastMap(x.shape, v.shape);
      go(x, inner === null || isIdentity(inner) ? map : map && composeMaps(map, inner));
    }
  };
  go(root, identityMap(sizeOf(root.shape)));
}

/** Whether a node can be part of an expression. */
export function isFusable(v: Value): boolean {
  const kind = operationOf(v).kernel.kind;
  return kind === "elementwise" || kind === "layout";
}

/** Whether the kernel of a node can apply an elementwise function to its result. */
export function acceptsEpilogue(node: Value): boolean {
  const rule = operationOf(node).kernel;
  return node.dtype === "f32" &&
    (rule?.kind === "reduce" || (rule?.kind === "kernel" && rule.epilogue === true));
}
