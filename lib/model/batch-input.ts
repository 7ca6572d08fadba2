/**
 * What one part of a batch is: token ids, a mask, labels, pixels, task ids.
 *
 * @module
 */

/** An axis of a batch input: rows, tokens of a row, tokens of a decoder's row, or a fixed size. */
export type BatchAxis = "batch" | "tokens" | "decoderTokens" | number;

/** One named part of a batch. Architecture, task and methods each bring a list of them. */
export interface BatchInput {
  /** Its name for callers and in programs, such as `tokenTypeIds`. */
  readonly name: string;
  /** Its shape. */
  readonly axes: readonly BatchAxis[];
  /** Type of its elements in programs. */
  readonly dtype: "i32" | "f32";
  /** Smallest value; none by default. */
  readonly from?: number;
  /** Largest value; none by default. */
  readonly to?: number;
  /** What stands for all its elements where a caller leaves it out; without it, it must be given. */
  readonly otherwise?: number;
  /** What shorter rows are filled up with; 0 by default. */
  readonly padding?: number;
  /** What it is: shape, range, default. */
  readonly doc: string;
}
