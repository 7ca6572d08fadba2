/**
 * What a training run tells while it runs and when it is done.
 *
 * @module
 */

import type { Metrics } from "../tasks/objective.ts";

/** One line of a run's history. */
export interface HistoryEntry {
  /** Optimizer step, from 1. */
  readonly step: number;
  /** Mean loss per label of the step's batches, before the update. */
  readonly loss: number;
  /** Learning rate of the step. */
  readonly learningRate: number;
  /** Norm of the whole gradient before clipping. */
  readonly gradientNorm: number;
  /** Tokens of the step that are not padding. */
  readonly tokens: number;
  /** Mean loss on the evaluation data after the update, where it was measured at this step. */
  readonly evalLoss?: number;
  /** What else was measured then. */
  readonly evalMetrics?: Metrics;
}

/** What `onStep` gets. */
export interface StepReport extends HistoryEntry {
  /** Number of steps of the whole run. */
  readonly steps: number;
  /** Tokens per second, over the last steps. */
  readonly tokensPerSecond: number;
  /** Estimate of the seconds until the run ends. */
  readonly secondsLeft: number;
}

/**
 * Measures the pace of a run over a sliding window of steps, so that compilation in the first one
 * does not count for long.
 *
 * @param now Milliseconds; injectable for tests.
 */
export function createPace(now: () => number = () => performance.now()): {
  step(
    tokens: number,
    left: number,
  ): { readonly tokensPerSecond: number; readonly secondsLeft: number };
} {
  const window: { readonly at: number; readonly tokens: number }[] = [{ at: now(), tokens: 0 }];
  return {
    step(tokens, left) {
      window.push({ at: now(), tokens });
      if (window.length > 11) window.shift();
      const seconds = Math.max(1e-9, (window[window.length - 1].at - window[0].at) / 1000);
      const counted = window.slice(1).reduce((n, w) => n + w.tokens, 0);
      return {
        tokensPerSecond: counted / seconds,
        secondsLeft: left * seconds / (window.length - 1),
      };
    },
  };
}
