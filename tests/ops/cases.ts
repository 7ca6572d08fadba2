/**
 * Cases for every operation: small inputs of odd shapes and what plain 64-bit arithmetic makes of them. Gradients are
 * checked against finite differences of the reference, so a case says only which inputs have one.
 *
 * @module
 */
import type { Graph, Value } from "../../lib/ops/value.ts";
import type { DType } from "../../lib/tensor/dtype.ts";
import { ATTENTION_CASES } from "./cases-attention.ts";
import { ELEMENTWISE_CASES } from "./cases-elementwise.ts";
import { LAYOUT_CASES } from "./cases-layout.ts";
import { MODEL_CASES } from "./cases-model.ts";
import { PRODUCT_CASES } from "./cases-product.ts";
import { QUANTIZED_CASES } from "./cases-quantized.ts";
import type { Nd } from "./nd.ts";

/** One input of a case. */
export interface CaseInput {
  readonly shape: readonly number[];
  /** `f32` by default. Inputs stored as `f16` or `bf16` are weights, which a device may keep in another type. */
  readonly dtype?: DType;
  /** Elements; random numbers between −1 and 1 by default. */
  readonly data?: readonly number[];
  /** Weights stay resident; data is the default. */
  readonly role?: "weight" | "data";
  /** Whether its gradient is checked; yes for f32 data without contents of its own. */
  readonly gradient?: boolean;
}

/** Input arrays by name. */
export type Arrays = Readonly<Record<string, Nd>>;

/** One use of an operation. */
export interface Case {
  readonly name: string;
  readonly inputs: Readonly<Record<string, CaseInput>>;
  /** Traces the operation. */
  readonly build: (graph: Graph, inputs: Readonly<Record<string, Value>>) => Value;
  /** The same in 64-bit floats. */
  readonly reference: (inputs: Arrays) => Nd;
  /** What to take finite differences of, where that is not the reference. */
  readonly surrogate?: (inputs: Arrays, original: Arrays) => Nd;
  /** Largest error relative to the largest element; 2e-6 by default. */
  readonly tolerance?: number;
}

/** All cases. */
export const CASES: readonly Case[] = [
  ...ELEMENTWISE_CASES,
  ...LAYOUT_CASES,
  ...PRODUCT_CASES,
  ...MODEL_CASES,
  ...ATTENTION_CASES,
  ...QUANTIZED_CASES,
];

/** Numbers between −1 and 1 that are the same each time. */
export function noise(count: number, seed: number): number[] {
  let x = Math.imul(seed, 2654435761) | 1;
  return Array.from({ length: count }, () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x / 2147483648;
  });
}
