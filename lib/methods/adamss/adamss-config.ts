/**
 * The config of AdaMSS.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../../errors.ts";
import type { Site } from "../../model/site.ts";
import {
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "../config.ts";
import { ATTENTION_TARGETS } from "../default-targets.ts";

/** An AdaMSS config with every field, as {@link adamssConfig} makes it. */
export interface AdamssConfig extends
  PeftConfig,
  Required<
    Pick<TargetConfig, "targetModules" | "modulesToSave" | "layersToTransform" | "layersPattern">
  > {
  /** `"ADAMSS"`. */
  readonly peftType: "ADAMSS";
  /** Singular vectors of each weight, at most as many as it has. 100 by default. */
  readonly r: number;
  /** Clusters of the rows of each weight. 5 by default. */
  readonly numSubspaces: number;
  /** Rank of each cluster, at most its number of rows. 1 by default. */
  readonly subspaceRank: number;
  /** Whether B begins as zero (`"orthogonal"`, default); random where it is `null`. */
  readonly initWeights: "orthogonal" | null;
  /** Whether training leaves more and more subspaces as they are. */
  readonly useAsa: boolean;
  /** How many subspaces of all layers are trained in the end. 50 by default. */
  readonly asaTargetSubspaces: number;
  /** The first step, from 0, at which subspaces are left. 50 by default. */
  readonly initWarmup: number;
  /** The last step at which subspaces are left. 1000 by default. */
  readonly finalWarmup: number;
  /** Steps from one choice of subspaces to the next. 100 by default. */
  readonly maskInterval: number;
  /** Decay of the running mean of how much the loss depends on an element. 0.85 by default. */
  readonly asaImportanceBeta: number;
  /** Decay of the running mean of how much that varies. 0.85 by default. */
  readonly asaUncertaintyBeta: number;
  /** How fast subspaces are left at first: 1 is evenly. 3 by default. */
  readonly asaScheduleExponent: number;
  /** Whether the rank of a cluster follows from its singular values. */
  readonly useDynamicRank: boolean;
  /** Singular values below this share of the largest do not count. 0.1 by default. */
  readonly svdThreshold: number;
  /** Seed of the random start of the decomposition. 0 by default. */
  readonly randomSeed: number;
}

const { targetModules, modulesToSave, layersToTransform, layersPattern } = targetFields();

/** Its fields. */
export const adamssSchema: ConfigSchema<AdamssConfig> = {
  peftType: "ADAMSS",
  targets: { ...ATTENTION_TARGETS, vit: ["query", "value"] },
  isIdentityAtInit: true,
  fields: {
    ...commonFields("ADAMSS"),
    targetModules,
    modulesToSave,
    layersToTransform,
    layersPattern,
    r: field.integer(100, 1),
    numSubspaces: field.integer(5, 1),
    subspaceRank: field.integer(1, 1),
    // PEFT takes false for null.
    initWeights: z.preprocess(
      (value) => value === false ? null : value,
      z.literal("orthogonal").nullable().default("orthogonal"),
    ).describe('"orthogonal" or null'),
    useAsa: field.boolean(false),
    asaTargetSubspaces: z.int().default(50).describe("a whole number"),
    initWarmup: z.int().default(50).describe("a whole number"),
    finalWarmup: z.int().default(1000).describe("a whole number"),
    maskInterval: z.int().default(100).describe("a whole number"),
    asaImportanceBeta: field.float(0.85),
    asaUncertaintyBeta: field.float(0.85),
    asaScheduleExponent: field.float(3),
    useDynamicRank: field.boolean(false),
    svdThreshold: field.float(0.1),
    randomSeed: z.int().default(0).describe("a whole number"),
  },
  check(config) {
    if (!config.useAsa) return;
    const fields = ["maskInterval", "asaTargetSubspaces", "asaScheduleExponent"] as const;
    const low = fields.find((name) => !(config[name] > 0));
    if (low) {
      throw new ConfigError(
        "CONFIG_ADAMSS",
        `With useAsa, ${low} must be above 0; found ${config[low]}.`,
      );
    }
    const { initWarmup: first, finalWarmup: last } = config;
    if (first >= last) {
      throw new ConfigError(
        "CONFIG_ADAMSS",
        `With useAsa, initWarmup (${first}) must be smaller than finalWarmup (${last}), so that there ` +
          "are steps between them.",
      );
    }
  },
};

/**
 * A complete AdaMSS config (Zheng et al., 2025): each cluster of a weight's rows learns in a subspace of
 * its own.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for schedules that cannot be.
 *
 * @example
 * ```ts
 * import { adamssConfig } from "@graft/peft";
 * console.log(adamssConfig({ r: 200, useAsa: true, asaTargetSubspaces: 20 }).numSubspaces); // 5
 * ```
 */
export function adamssConfig(config: Partial<AdamssConfig> = {}): AdamssConfig {
  return parseConfig(adamssSchema, config);
}

/** Numbers of a site: singular vectors, clusters, and the largest rank of one. */
export function sizesOf({ r, numSubspaces, subspaceRank }: AdamssConfig, site: Site) {
  const inputs = site.inFeatures + Number(site.bias), { outFeatures } = site;
  return {
    inputs,
    r: Math.min(r, inputs, outFeatures),
    count: Math.min(numSubspaces, outFeatures),
    rank: Math.min(subspaceRank, outFeatures),
  };
}
