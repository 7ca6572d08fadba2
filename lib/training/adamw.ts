/**
 * AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2017, arXiv:1711.05101).
 *
 * @module
 */
import { add, div, mul, sub } from "../ops/binary.ts";
import { sqrt } from "../ops/unary.ts";
import type { Value } from "../ops/value.ts";
import {
  isFiniteNumber,
  NOT_NEGATIVE,
  type OptionRule,
  type OptionRules,
  POSITIVE,
} from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";

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

const DECAY: OptionRule = {
  must: "a number from 0 up to, but not including, 1",
  holds: (x) => isFiniteNumber(x) && x >= 0 && x < 1,
};

/** What the settings may be. */
export const ADAMW_RULES: OptionRules<AdamWOptions> = {
  beta1: DECAY,
  beta2: DECAY,
  epsilon: POSITIVE,
  weightDecay: NOT_NEGATIVE,
};

/** Parameters and moments, all of one shape. */
export interface AdamWState {
  /** What is trained. */
  readonly parameters: Value;
  /** Running mean of gradients. */
  readonly mean: Value;
  /** Running mean of squared gradients. */
  readonly square: Value;
}

/**
 * One update, with torch's order of operations.
 *
 * @param state Parameters and moments before the step.
 * @param step The gradient, and `rates` [3] as {@link adamWRates} gives them for this step.
 */
export function adamW(
  state: AdamWState,
  step: {
    readonly gradient: Value;
    readonly rates: readonly [Value, Value, Value];
  } & AdamWOptions,
): AdamWState {
  const { gradient, rates: [decay, size, correction], beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 } =
    step;
  const mean = add(mul(state.mean, beta1), mul(gradient, 1 - beta1));
  const square = add(mul(state.square, beta2), mul(mul(gradient, gradient), 1 - beta2));
  const denominator = add(div(sqrt(square), correction), epsilon);
  const parameters = sub(mul(state.parameters, decay), mul(div(mean, denominator), size));
  return { parameters, mean, square };
}

/**
 * The numbers that change from step to step: 1 − lr · decay, lr / (1 − β₁ᵗ) and √(1 − β₂ᵗ), each a
 * tensor [1].
 *
 * @param step Counts from 1.
 * @param options Learning rate and the optimizer's settings.
 */
export function adamWRates(
  step: number,
  options: { readonly learningRate: number } & AdamWOptions,
): readonly [Tensor, Tensor, Tensor] {
  const { learningRate, beta1 = 0.9, beta2 = 0.999, weightDecay = 0.01 } = options;
  const one = (x: number) => tensor(Float32Array.of(x));
  return [
    one(1 - learningRate * weightDecay),
    one(learningRate / (1 - beta1 ** step)),
    one(Math.sqrt(1 - beta2 ** step)),
  ];
}
