/**
 * What the kernels of attention are made from.
 *
 * @module
 */

import type { Sizes } from "./sizes.ts";

/** Sizes and mask of an attention; see lib/ops/attention.ts. */
export interface AttentionProblem {
  /** Sequences (B). */
  readonly batch: number;
  /** Queries per sequence (T). */
  readonly queries: number;
  /** Keys per sequence (S). */
  readonly keys: number;
  /** Heads of the queries (H). */
  readonly heads: number;
  /** Heads of the keys and values (G), a divisor of H. */
  readonly groups: number;
  /** Elements per head (D). */
  readonly depth: number;
  /** A query sees keys up to its own place only. */
  readonly causal: boolean;
  /** A query sees the last keys up to its own place only. */
  readonly window: number | null;
  /** Factor of the dot products. */
  readonly scale: number;
}

/** What of an attention is computed. */
export type AttentionPart = "output" | "logSum" | "gradQ" | "gradK" | "gradV";

/** Numbers of the inputs of each node. */
export const INPUTS = {
  /** `attention` and, from `logSum` on, its gradients. */
  q: 0,
  k: 1,
  v: 2,
  querySegments: 3,
  keySegments: 4,
  offset: 5,
  g: 6,
  logSum: 7,
  delta: 8,
} as const;

/** Numbers of the inputs of `attentionLogSum`, which has no values. */
export const LOG_SUM_INPUTS = { q: 0, k: 1, querySegments: 2, keySegments: 3, offset: 4 } as const;

/** Below any score, but finite: what hidden keys count as. */
export const HIDDEN = "-1e30f";

/** Above any score: the log of the sum of a row that sees no key, so that exp(score − it) is 0. */
export const NOTHING_SEEN = "1e30f";

/** Whether a query at place `place` (offset + t) sees keys by their position. */
export function isPositional({ causal, window }: AttentionProblem): boolean {
  return causal || window !== null;
}

/** WGSL function `visible(querySegment: i32, keySegment: i32, place: i32, key: i32) -> bool`. */
export function visibleFunction(problem: AttentionProblem, sizes: Sizes): string {
  const { window } = problem;
  const tests = ["querySegment == keySegment", "querySegment != 0"];
  if (isPositional(problem)) tests.push("key <= place");
  if (window !== null) tests.push(`key > place - ${sizes.i32(window)}`);
  return `fn visible(querySegment: i32, keySegment: i32, place: i32, key: i32) -> bool {
  return ${tests.join(" && ")};
}
`;
}
