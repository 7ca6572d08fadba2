/**
 * The config of CorDA: all fields of PEFT's `CordaConfig`.
 *
 * @module
 */
import { z } from "zod";
import { field, type FieldType, nestedField } from "../field.ts";

/**
 * How a LoRA with `initLoraWeights: "corda"` begins (Yang et al., 2024, arXiv:2406.05223). With C
 * for the covariance of what goes into a module with weight W, and U·S·Vᵀ for the singular value
 * decomposition of W·C, the adapter takes over the part U·S·Vᵀ·C⁻¹ of `r` of its columns.
 */
export interface CordaConfig {
  /**
   * File that `preprocessCorda` writes what it found to, and reads it from where there is one: then
   * no batches are needed, only the same config. Safetensors, with PEFT's keys.
   */
  readonly cacheFile: string | null;
  /**
   * File for the covariances, likewise; they are of use for other ranks and for the other method.
   */
  readonly covarianceFile: string | null;
  /**
   * Which part the adapter takes over: `"ipm"` (instruction-previewed mode, the default) the one
   * that does most to such inputs, for learning a task fast; `"kpm"` (knowledge-preserved mode) the
   * one that does least to them, so that what the model knows of them stays.
   */
  readonly cordaMethod: "ipm" | "kpm";
  /** Prints progress, where `preprocessCorda` gets no `onProgress`. */
  readonly verbose: boolean;
  /**
   * Keeps covariances in 16 bits, where the base's weights have 16: half the memory, less exact.
   */
  readonly useFloat16ForCovariance: boolean;
  /** Drops the covariances once they have been used. Without it the calibration keeps them. */
  readonly pruneTemporaryFields: boolean;
}

const path = z.string().min(1).nullable().default(null).describe("a path or null");

/** The field `cordaConfig` of a LoRA config; fields of its own that are absent take their defaults. */
export const cordaConfigField: FieldType<CordaConfig | null> = nestedField<CordaConfig>({
  cacheFile: path,
  covarianceFile: path,
  cordaMethod: field.choice("ipm", ["ipm", "kpm"]),
  verbose: field.boolean(false),
  useFloat16ForCovariance: field.boolean(false),
  pruneTemporaryFields: field.boolean(true),
});
