/**
 * The configs of initializations that have settings of their own: all fields of PEFT's `EvaConfig`,
 * `LoraGAConfig` and `LoftQConfig`.
 *
 * @module
 */
import { z } from "zod";
import { described, field, type FieldType, nestedField } from "../field.ts";

/**
 * How a LoRA with `initLoraWeights: "eva"` begins (Paischer et al., 2024, arXiv:2410.07170): A holds
 * the directions in which the inputs of the layer vary most, and ranks go to the layers where few
 * directions explain much. See `initializeLoraEvaWeights`.
 */
export interface EvaConfig {
  /** The rank of a layer is `rho * r` at most, from 1 (all keep theirs) on. 2 by default. */
  readonly rho: number;
  /**
   * A direction is found once its cosine similarity to that of the step before reaches this, from 0
   * to 1. 0.99 by default.
   */
  readonly tau: number;
  /** Whether tokens whose label is `labelMaskValue` are left out, where batches have labels. */
  readonly useLabelMask: boolean;
  /** The label of tokens to leave out. −100 by default. */
  readonly labelMaskValue: number;
  /** Divides each direction by the root of its singular value. */
  readonly whiten: boolean;
  /** Whether `loraAlpha` follows the rank of a layer, so that the scale stays as it was. */
  readonly adjustScalingFactors: boolean;
}

/** The field `evaConfig` of a LoRA config. */
export const evaConfigField: FieldType<EvaConfig | null> = nestedField<EvaConfig>({
  rho: float(z.number().min(1).default(2).describe("a number from 1 on")),
  tau: float(z.number().min(0).max(1).default(0.99).describe("a number from 0 to 1")),
  useLabelMask: field.boolean(true),
  labelMaskValue: z.int().default(-100).describe("a whole number"),
  whiten: field.boolean(false),
  adjustScalingFactors: field.boolean(true),
});

function float(type: FieldType<number>): FieldType<number> {
  return described(type, { float: true });
}

/**
 * How a LoRA with `initLoraWeights: "lora_ga"` begins (Wang et al., 2024, arXiv:2407.05000): with
 * directions of the gradient of the weight, so that its first step is close to that of full
 * training. See `preprocessLoraga`.
 */
export interface LoraGaConfig {
  /**
   * Which of the 2r leading singular vectors of the gradient A and B take: `"ArBr"` by turns, B
   * first; `"A2rBr"` B the first r and A the others; `"ArB2r"` (default) the other way round;
   * `"random"` both the same r at random.
   */
  readonly direction: "ArBr" | "A2rBr" | "ArB2r" | "random";
  /**
   * `"stable"` (default) multiplies B by the fourth root of the first dimension of the stored weight
   * over the root of `stableGamma`, `"weight_svd"` brings it to the largest singular value of the
   * weight, `"gd_scale"` divides both by the scale of the adapter, `"unit"` leaves both.
   */
  readonly scale: "stable" | "weight_svd" | "gd_scale" | "unit";
  /** See `scale`. 16 by default. */
  readonly stableGamma: number;
}

/** The field `loraGaConfig` of a LoRA config. */
export const loraGaConfigField: FieldType<LoraGaConfig | null> = nestedField<LoraGaConfig>({
  direction: field.choice("ArB2r", ["ArBr", "A2rBr", "ArB2r", "random"]),
  scale: field.choice("stable", ["stable", "weight_svd", "gd_scale", "unit"]),
  stableGamma: z.int().min(1).default(16).describe("a whole number above 0"),
});

/**
 * How a LoRA with `initLoraWeights: "loftq"` begins (Li et al., 2023, arXiv:2310.08659).
 */
export interface LoftqConfig {
  /** 4 for NF4, or 8. */
  readonly loftqBits: 4 | 8;
  /** How often the weight is quantized without what the factors make up for, from 1 on. */
  readonly loftqIter: number;
}

const loftq = nestedField<LoftqConfig>({
  loftqBits: z.literal([4, 8]).default(4).describe("4 or 8"),
  loftqIter: field.integer(1, 1),
});

/** The field `loftqConfig` of a LoRA config; without any field of its own it says nothing. */
export const loftqConfigField: FieldType<Partial<LoftqConfig> | null> = {
  ...loftq,
  safeParse(value) {
    const isEmpty = value === undefined || (isObject(value) && Object.keys(value).length === 0);
    return isEmpty ? { success: true, data: {} } : loftq.safeParse(value);
  },
};

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
