/**
 * Which values are only another way to look at a buffer.
 *
 * @module
 */
import { STORAGE } from "../../kernels/wgsl.ts";
import { operationOf } from "../ops/mod.ts";
import type { Value } from "../ops/value.ts";
import type { Program } from "./program.ts";

/** Where a value lies if the buffer of its root exists. */
export interface View {
  /** The value whose buffer it is; the value itself where it is no view. */
  readonly root: Value;
  /** Bytes from the start of the root. */
  readonly offset: number;
}

/**
 * The views of a program: reshapes, and slices that are one aligned range.
 *
 * @param program What to look at.
 * @param alignment What the offsets of bound ranges are multiples of, in bytes.
 */
export function viewsOf(program: Program, alignment: number): ReadonlyMap<Value, View> {
  const views = new Map<Value, View>();
  for (const node of program.nodes) views.set(node, viewOf(node, views, alignment));
  return views;
}

function viewOf(node: Value, views: ReadonlyMap<Value, View>, alignment: number): View {
  const rule = operationOf(node).kernel;
  if (rule?.kind === "view") return views.get(node.inputs[0])!;
  if (node.op === "slice" && rule?.kind === "layout") {
    const { factors, offset } = rule.map(node);
    const bytes = offset * 4 / STORAGE[node.dtype].perWord;
    const from = views.get(node.inputs[0])!;
    const isRange = factors.length === 0 || (factors.length === 1 && factors[0].stride === 1);
    if (isRange && (from.offset + bytes) % alignment === 0) {
      return { root: from.root, offset: from.offset + bytes };
    }
  }
  return { root: node, offset: 0 };
}
