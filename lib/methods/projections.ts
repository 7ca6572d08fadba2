/**
 * Random matrices that stay as they are and that all layers of an adapter share: as large as its
 * largest layer needs, so that others take the first rows and columns.
 *
 * @module
 */
import { z } from "zod";
import type { Site } from "../model/site.ts";
import {
  type ConfigFields,
  field,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import type { LeafRule } from "./method.ts";

/** What the configs of methods with shared projections have in common. */
export interface ProjectionConfig extends
  PeftConfig,
  Required<
    Pick<
      TargetConfig,
      "targetModules" | "modulesToSave" | "fanInFanOut" | "layersToTransform" | "layersPattern"
    >
  > {
  /** Rank: inner dimension of the shared projections. */
  readonly r: number;
  /** Seed of the random numbers that the projections consist of. 0 by default. */
  readonly projectionPrngKey: number;
  /**
   * Whether the projections are saved (default), or made again from `projectionPrngKey` when the
   * adapter is loaded.
   */
  readonly saveProjection: boolean;
  /**
   * Whether the adapter starts by changing nothing (default). With `false` its leaves are random, for
   * tests.
   */
  readonly initWeights: boolean;
}

/** The fields of {@link ProjectionConfig} beside those of all configs. */
export function projectionFields(
  r: number,
): Omit<ConfigFields<ProjectionConfig>, keyof PeftConfig> {
  const { targetModules, modulesToSave, layersToTransform, layersPattern } = targetFields();
  return {
    r: field.integer(r, 1),
    targetModules,
    projectionPrngKey: z.int().default(0).describe("a whole number"),
    saveProjection: field.boolean(true),
    fanInFanOut: field.boolean(false),
    modulesToSave,
    initWeights: field.boolean(true),
    layersToTransform,
    layersPattern,
  };
}

/** The largest size among sites; 0 where there are none. */
export function largest(sites: readonly Site[], size: (site: Site) => number): number {
  return Math.max(0, ...sites.map(size));
}

/** A shared projection as a leaf of the adapter as a whole. */
export function projection(
  name: string,
  { saveProjection }: Pick<ProjectionConfig, "saveProjection">,
  rule: LeafRule,
): LeafRule {
  const key = saveProjection ? `base_model.${name}` : null;
  return { ...rule, kind: "fixed", key, idleKeys: new RegExp(`^base_model\\.(.*\\.)?${name}$`) };
}
