/**
 * A progress bar for training.
 *
 * @module
 */
// @ts-types="@types/cli-progress"
import progress from "cli-progress";
import process from "node:process";
import type { StepReport } from "./report.ts";

/** What {@link trainingProgress} gives. */
export interface TrainingProgress {
  /** For `onStep` of `train`. */
  readonly update: (report: StepReport) => void;
  /** Ends the bar; call it when training ends or throws. */
  readonly stop: () => void;
}

/**
 * Shows loss, tokens per second and time left: a bar on a terminal, a line every few seconds
 * elsewhere. Nothing is shown before the first step.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, tinyModel, train, trainingProgress } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig());
 * const bar = trainingProgress();
 * await train(model, [{ inputIds: [[1, 2, 3]] }], {
 *   learningRate: 1e-3,
 *   steps: 2,
 *   onStep: bar.update,
 * }).finally(bar.stop);
 * ```
 */
export function trainingProgress(): TrainingProgress {
  let bar: progress.SingleBar | undefined;
  return {
    update(report) {
      const payload = {
        loss: report.loss.toFixed(4),
        rate: Math.round(report.tokensPerSecond),
        left: duration(report.secondsLeft),
      };
      if (!bar) {
        bar = new progress.SingleBar({
          format: "{bar} {value}/{total} | loss {loss} | {rate} tokens/s | {left} left",
          stream: process.stderr,
          noTTYOutput: true,
          notTTYSchedule: 5000,
          hideCursor: true,
        }, progress.Presets.shades_classic);
        bar.start(Number.isFinite(report.steps) ? report.steps : 0, report.step, payload);
      } else {
        bar.update(report.step, payload);
      }
      if (report.step === report.steps) bar.stop();
    },
    stop: () => bar?.stop(),
  };
}

/** Seconds as `42s`, `3m 05s` or `2h 07m`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${s}s`;
  const pad = (n: number) => String(n).padStart(2, "0");
  return s < 3600
    ? `${Math.floor(s / 60)}m ${pad(s % 60)}s`
    : `${Math.floor(s / 3600)}h ${pad(Math.floor(s % 3600 / 60))}m`;
}
