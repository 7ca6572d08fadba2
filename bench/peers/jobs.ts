/**
 * What the jobs on the CPU are, as in torch_peft.py, and how repetitions become one number.
 *
 * @module
 */

/** Sizes of the jobs. */
export const LIMITS = {
  /** Rows of a training batch. */
  batch: 4,
  /** Tokens in a row. */
  length: 128,
  /** Tokens of the prompt that is decoded from. */
  promptTokens: 32,
  /** Tokens that are decoded. */
  newTokens: 64,
  /** Decoded tokens that are not timed. */
  warmTokens: 16,
} as const;

/** SmolLM2's. */
export const VOCABULARY = 49152;

/** What one process measured. */
export interface Measured {
  /** Training or decoding speed, from the median step. */
  readonly tokensPerSecond?: number;
  /** The same from the fastest step. */
  readonly bestTokensPerSecond?: number;
  /** Seconds from the start of the process to the first token. */
  readonly seconds?: number;
  /** The largest resident size, in MiB. */
  readonly peakRssMb?: number;
  /** Versions of what was measured. */
  readonly versions?: Readonly<Record<string, string>>;
  /** Whatever else is good to know. */
  readonly [detail: string]: unknown;
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
