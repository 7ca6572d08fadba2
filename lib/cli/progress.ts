/**
 * How far training has come: a bar in a terminal, plain lines elsewhere.
 *
 * @module
 */
import { duration, trainingProgress } from "../training/progress.ts";
import type { HistoryEntry, StepReport } from "../training/report.ts";
import type { CliContext } from "./context.ts";

/** Shows reports of steps. */
export interface Progress {
  /** Shows a step. */
  step(report: StepReport): void;
  /** Ends the display. */
  stop(): void;
}

/**
 * Opens a display on the context's messages.
 *
 * @param context Where to.
 * @param options `every` is how many steps there are from one plain line to the next.
 */
export function createProgress(
  context: CliContext,
  options: { readonly every: number },
): Progress {
  if (context.terminal) {
    const { update, stop } = trainingProgress();
    return {
      step(report) {
        update(report);
        if (report.evalLoss !== undefined) context.err(`\n${line(report)}`);
      },
      stop,
    };
  }
  let first = true;
  return {
    step(report) {
      const { step, steps, evalLoss } = report;
      if (!first && step % options.every !== 0 && step !== steps && evalLoss === undefined) return;
      first = false;
      context.err(line(report));
    },
    stop: () => {},
  };
}

/** What was measured at an evaluation, if there was one. */
export function evaluated({ evalLoss, evalMetrics = {} }: HistoryEntry, before: string): string {
  if (evalLoss === undefined) return "";
  return Object.entries({ "eval loss": evalLoss, ...evalMetrics })
    .map(([name, value]) => `${before}${name} ${value.toFixed(4)}`).join("");
}

function line(report: StepReport): string {
  const { step, steps, loss, learningRate, tokensPerSecond, secondsLeft } = report;
  return `step ${step}/${steps}  loss ${loss.toFixed(4)}${evaluated(report, "  ")}` +
    `  lr ${learningRate.toExponential(2)}  ${Math.round(tokensPerSecond)} tokens/s  ` +
    `${duration(secondsLeft)} left\n`;
}
