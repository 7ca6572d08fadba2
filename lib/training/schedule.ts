/**
 * Learning-rate schedules.
 *
 * @module
 */
import { ValueError } from "../errors.ts";

/** Name of a schedule. */
export type Schedule = "constant" | "linear" | "cosine";

/** The names of all schedules. */
export const SCHEDULES: readonly Schedule[] = ["constant", "linear", "cosine"];

/**
 * The factor on the learning rate at a step: it rises from 0 over the warm-up steps, then stays,
 * falls in a line, or falls along half a cosine to 0 at the last step. The definitions are those of
 * transformers' `get_scheduler`.
 *
 * @param schedule Name of the schedule.
 * @param at `step` counts from 0; `steps` and `warmupSteps` are numbers of optimizer steps.
 *
 * @example
 * ```ts
 * import { learningRateFactor } from "@graft/peft";
 * console.log(learningRateFactor("linear", { step: 6, steps: 10, warmupSteps: 2 })); // 0.5
 * ```
 */
export function learningRateFactor(
  schedule: Schedule,
  at: { readonly step: number; readonly steps: number; readonly warmupSteps?: number },
): number {
  const { step, steps, warmupSteps = 0 } = at;
  if (step < warmupSteps) return step / Math.max(1, warmupSteps);
  const progress = (step - warmupSteps) / Math.max(1, steps - warmupSteps);
  switch (schedule) {
    case "constant":
      return 1;
    case "linear":
      return Math.max(0, 1 - progress);
    case "cosine":
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
    default:
      throw new ValueError(
        "SCHEDULE_UNKNOWN",
        `The schedule "${schedule}" is not known; known are ${SCHEDULES.join(", ")}.`,
      );
  }
}
