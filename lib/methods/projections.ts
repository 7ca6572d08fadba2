/**
 * Random matrices that stay as they are and that all layers of an adapter share: as large as its
 * largest layer needs, so that others take the first rows and columns.
 *
 * @module
 */
import { z } from "zod";
import type { Site } from "../model/site.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import {
  type ConfigFields,
  field,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import type { LeafRule } from "./method.ts";
import { createTorchRandom } from "./torch-random.ts";

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

/** A vector as a column, which scales the rows of a matrix. */
export function column(x: Value): Value {
  return reshape(x, [-1, 1]);
}

/** The trained vectors of a layer, `<name>_lambda_b` and `<name>_lambda_d`, of these lengths. */
export function lambdas(
  name: string,
  { initWeights, dInitial }: { readonly initWeights: boolean; readonly dInitial: number },
  { b, d }: { readonly b: number; readonly d: number },
): Readonly<Record<string, LeafRule>> {
  return {
    [`${name}_lambda_b`]: {
      shape: [b],
      init: () => new Float32Array(b).fill(initWeights ? 0 : 1),
    },
    [`${name}_lambda_d`]: {
      shape: [d],
      init({ random }) {
        // PEFT draws them also where it then sets them to a constant.
        const drawn = random.normal(d);
        return initWeights ? drawn.fill(dInitial) : drawn;
      },
    },
  };
}

/**
 * The projections `<name>_A` [rows, in] and `<name>_B` [out, r]: uniform random numbers from the key's
 * own stream, with the variance that keeps signals as they are before a rectifier (He et al., 2015,
 * arXiv:1502.01852).
 */
export function uniformProjections(
  name: string,
  config: ProjectionConfig,
  { sites, rows }: { readonly sites: readonly Site[]; readonly rows: number },
): Readonly<Record<string, LeafRule>> {
  const random = createTorchRandom(config.projectionPrngKey), { r } = config;
  const inputs = largest(sites, (site) => site.inFeatures);
  const outputs = largest(sites, (site) => site.outFeatures);
  const rule = (
    leaf: string,
    shape: readonly [number, number],
    accepts: LeafRule["accepts"],
  ): Readonly<Record<string, LeafRule>> => ({
    [leaf]: projection(leaf, config, {
      shape,
      accepts,
      init() {
        const bound = Math.sqrt(3) * (Math.sqrt(2) / Math.sqrt(shape[1]));
        return random.uniform(shape[0] * shape[1], { low: -bound, high: bound });
      },
    }),
  });
  // A second adapter's file holds the projections of the first, which may be larger.
  return {
    ...rule(`${name}_A`, [rows, inputs], ([m, n]) => m === rows && n >= inputs),
    ...rule(`${name}_B`, [outputs, r], ([m, n]) => m >= outputs && n === r),
  };
}

/** What a site uses of projections: A [rows, in] and B [out, r]. */
export function projectionsAt(
  { site }: { readonly site: Site },
  a: Value,
  b: Value,
): { readonly a: Value; readonly b: Value } {
  return {
    a: sliceAxis(a, { axis: 1, start: 0, size: site.inFeatures }),
    b: sliceAxis(b, { axis: 0, start: 0, size: site.outFeatures }),
  };
}
