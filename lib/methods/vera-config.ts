/**
 * The config of VeRA: all fields of PEFT's `VeraConfig`.
 *
 * @module
 */
import { z } from "zod";
import {
  checkLayersPattern,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  targetFields,
} from "./config.ts";

/** A VeRA config with every field, as {@link veraConfig} makes it. */
export interface VeraConfig extends PeftConfig {
  /** `"VERA"`. */
  readonly peftType: "VERA";
  /**
   * Rank: inner dimension of the shared projections. 256 by default; choose it larger than for
   * LoRA, as a site trains only `r` and its output features.
   */
  readonly r: number;
  /**
   * Which modules: a list of full paths or of their endings, a regular expression for the whole
   * path, or `"all-linear"`; `null` (default) for what is usual for the architecture.
   */
  readonly targetModules: readonly string[] | string | null;
  /** Seed of the random numbers that the projections consist of. 0 by default. */
  readonly projectionPrngKey: number;
  /**
   * Whether the projections are saved (default), or made again from `projectionPrngKey` when the
   * adapter is loaded.
   */
  readonly saveProjection: boolean;
  /**
   * Probability with which an input feature is dropped before the projections in training, from 0
   * up to, but not including, 1. 0 by default.
   */
  readonly veraDropout: number;
  /** Value that `vera_lambda_d` starts from. 0.1 by default. */
  readonly dInitial: number;
  /**
   * Whether the adapted weights are stored [in, out]. Corrected by what the modules are, so it need
   * not be set.
   */
  readonly fanInFanOut: boolean;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"vera_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "vera_only";
  /** Modules that are trained and saved as a whole. */
  readonly modulesToSave: readonly string[] | null;
  /**
   * Whether the adapter starts by changing nothing (default). With `false`, `vera_lambda_d` is
   * normal random and `vera_lambda_b` is 1, for tests.
   */
  readonly initWeights: boolean;
  /**
   * Only these layers, by number. Applies to endings; not to full paths or to a regular expression.
   */
  readonly layersToTransform: readonly number[] | number | null;
  /**
   * Name of the list that holds the layers, such as `layers` or `h`, where it cannot be guessed.
   */
  readonly layersPattern: readonly string[] | string | null;
}

const { targetModules, modulesToSave, layersToTransform, layersPattern } = targetFields();

/** The fields of {@link VeraConfig}. */
export const veraSchema: ConfigSchema<VeraConfig> = {
  peftType: "VERA",
  floats: ["veraDropout", "dInitial"],
  fields: {
    ...commonFields("VERA"),
    peftType: z.literal("VERA").default("VERA").describe('"VERA"'),
    r: field.integer(256, 1),
    targetModules,
    projectionPrngKey: z.int().default(0).describe("a whole number"),
    saveProjection: field.boolean(true),
    veraDropout: z.number().min(0).lt(1).default(0).describe(
      "a number from 0 up to, not including, 1",
    ),
    dInitial: field.number(0.1),
    fanInFanOut: field.boolean(false),
    bias: field.choice("none", ["none", "all", "vera_only"]),
    modulesToSave,
    initWeights: field.boolean(true),
    layersToTransform,
    layersPattern,
  },
  // PEFT lets layersToTransform pass with an expression for targetModules, and does not look at it.
  check: checkLayersPattern,
};

/**
 * A complete VeRA config (Kopiczko et al., 2023, arXiv:2310.11454): random projections that all
 * layers share and that stay as they are, and two learned vectors for each layer.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { veraConfig } from "@graft/peft";
 * const config = veraConfig({ r: 128, targetModules: ["q_proj", "v_proj"], saveProjection: false });
 * console.log(config.dInitial); // 0.1
 * ```
 */
export function veraConfig(config: Partial<VeraConfig> = {}): VeraConfig {
  return parseConfig(veraSchema, config);
}
