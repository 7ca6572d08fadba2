/**
 * AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2017, arXiv:1711.05101).
 *
 * @module
 */
import { add, div, mul, sqrt, sub } from "../ops/elementwise.ts";
import { BELOW_ONE, checkOptions, NOT_NEGATIVE, type OptionRules, POSITIVE } from "../options.ts";
import type { Optimizer } from "./optimizer.ts";

/** The optimizer's settings. */
export interface AdamWOptions {
  /** Decay of the running mean of gradients; 0.9 by default. */
  readonly beta1?: number;
  /** Decay of the running mean of squared gradients; 0.999 by default. */
  readonly beta2?: number;
  /** Added to the denominator; 1e-8 by default. */
  readonly epsilon?: number;
  /** Decoupled weight decay; 0.01 by default, as in torch. */
  readonly weightDecay?: number;
}

/** What the settings may be. */
export const ADAMW_RULES: OptionRules<AdamWOptions> = {
  beta1: BELOW_ONE,
  beta2: BELOW_ONE,
  epsilon: POSITIVE,
  weightDecay: NOT_NEGATIVE,
};

/**
 * AdamW with torch's defaults and order of operations; the optimizer that `train` takes by default.
 *
 * @throws {ValueError} `OPTIMIZER_OPTION` for settings that cannot be.
 *
 * @example
 * ```ts
 * import { adamW } from "@graft/peft";
 * const optimizer = adamW({ weightDecay: 0, beta2: 0.98 });
 * console.log(optimizer.name); // adamw
 * ```
 */
export function adamW(options: AdamWOptions = {}): Optimizer {
  checkOptions(options, ADAMW_RULES, { code: "OPTIMIZER_OPTION", of: "adamW" });
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 } = options;
  return {
    name: "adamw",
    init: (size) => ({ mean: [size], square: [size] }),
    rates: ({ step, learningRate, factor }) => ({
      decay: 1 - learningRate * factor * weightDecay,
      size: learningRate * factor / (1 - beta1 ** step),
      correction: Math.sqrt(1 - beta2 ** step),
    }),
    update({ parameters, gradient, state, rate }) {
      const mean = add(mul(state.mean, beta1), mul(gradient, 1 - beta1));
      const square = add(mul(state.square, beta2), mul(mul(gradient, gradient), 1 - beta2));
      const denominator = add(div(sqrt(square), rate("correction")), epsilon);
      return {
        parameters: sub(
          mul(parameters, rate("decay")),
          mul(div(mean, denominator), rate("size")),
        ),
        state: { mean, square },
      };
    },
  };
}
