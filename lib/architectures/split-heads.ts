/**
 * Between the features of a token and the heads of its attention.
 *
 * @module
 */
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";

/** [.., H·D] as [.., H, D]. */
export function splitHeads(x: Value, heads: number): Value {
  return reshape(x, [...x.shape.slice(0, -1), heads, -1]);
}

/** [.., H, D] as [.., H·D]. */
export function joinHeads(x: Value): Value {
  return reshape(x, [...x.shape.slice(0, -2), -1]);
}

/** Queries, keys and values. */
export type Part = "q" | "k" | "v";

/** How heads of queries, keys and values lie in what one layer gives. */
export interface FusedHeads {
  /** In how many groups, each with its share of all three; 1 by default: first all queries. */
  readonly groups?: number;
  /** In which order inside a group; queries, keys and values by default. */
  readonly order?: readonly Part[];
}

/** The heads [.., H, D] of one part of what one layer gives for all three. */
export function fusedPart(
  x: Value,
  part: Part,
  of: FusedHeads & { readonly heads: number; readonly keyHeads: number },
): Value {
  const { groups = 1, order = ["q", "k", "v"], heads, keyHeads } = of;
  const sizeOf = (part: Part) => (part === "q" ? heads : keyHeads) / groups;
  const sum = (parts: readonly Part[]) => parts.reduce((n, part) => n + sizeOf(part), 0);
  const rows = x.shape.slice(0, -1), size = sizeOf(part);
  const start = sum(order.slice(0, order.indexOf(part)));
  const whole = reshape(x, [...rows, groups, sum(order), -1]);
  return reshape(sliceAxis(whole, { axis: rows.length + 1, start, size }), [
    ...rows,
    groups * size,
    -1,
  ]);
}
