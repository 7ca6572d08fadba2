/**
 * What LoHa and LoKr share, the two methods that PEFT has from LyCORIS (Yeh et al., 2023,
 * arXiv:2309.14859): ranks and scales by pattern, what training drops of the delta, and kernels of
 * convolutions as Tucker decompositions.
 *
 * @module
 */
import { z } from "zod";
import { type Site, weightShape } from "../model/site.ts";
import { perFeature } from "../model/site-product.ts";
import { cast } from "../ops/cast.ts";
import { div, greater, max, mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { mean } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import {
  checkLayersPattern,
  commonFields,
  type ConfigFields,
  type ConfigSchema,
  field,
  type TargetedConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import type { SiteTrace } from "./method.ts";
import { pythonRegExp } from "./python-regex.ts";
import { pattern, patternValue } from "./site-pattern.ts";
import { checkConvolution } from "./site-rule.ts";

/** What the configs of LoHa and LoKr share. */
export interface LycorisConfig extends TargetedConfig {
  /** Rank of the products that the delta is made of. 8 by default. */
  readonly r: number;
  /** The delta is scaled by `alpha / r`. 8 by default. */
  readonly alpha: number;
  /**
   * Probability with which training drops what the delta adds to an output feature, from 0 up to,
   * but not including, 1; all rows of a batch lack the same. 0 by default.
   */
  readonly rankDropout: number;
  /** Probability with which training leaves out the delta of a site as a whole. 0 by default. */
  readonly moduleDropout: number;
  /**
   * Whether kernels of convolutions larger than one element are Tucker decompositions ("Proposition
   * 3" of FedPara, Hyeon-Woo et al., 2021, arXiv:2108.06098), which takes fewer parameters. False by
   * default.
   */
  readonly useEffectiveConv2d: boolean;
  /**
   * Ranks that differ from `r`: by module name, or by a regular expression for the end of its path.
   * The first match counts.
   */
  readonly rankPattern: Readonly<Record<string, number>>;
  /** Values that differ from `alpha`, in the same way. */
  readonly alphaPattern: Readonly<Record<string, number>>;
}

/** The config of a method, which has these fields beside those that both share. */
export function lycorisSchema<C extends LycorisConfig>(
  peftType: C["peftType"],
  own: ConfigFields<Omit<C, keyof LycorisConfig>>,
): ConfigSchema<C> {
  const fields: ConfigFields<LycorisConfig> = {
    ...commonFields(peftType),
    ...targetFields(),
    rankPattern: pattern(z.int().min(1), "whole numbers above 0"),
    alphaPattern: pattern(z.number(), "numbers"),
    r: field.integer(8, 1),
    alpha: field.number(8),
    rankDropout: field.probability(0),
    moduleDropout: field.probability(0),
    useEffectiveConv2d: field.boolean(false),
  };
  return {
    peftType,
    targets: ATTENTION_TARGETS,
    mixes: true,
    isIdentityAtInit: true,
    fields: { ...fields, ...own } as ConfigFields<C>,
    check(config) {
      checkLayersPattern(config);
      Object.keys({ ...config.rankPattern, ...config.alphaPattern }).forEach(pythonRegExp);
    },
  };
}

/**
 * Rank and scale of a site, and whether its kernel is a Tucker decomposition.
 *
 * @throws {UnsupportedError} for a convolution of three dimensions.
 */
export function lycorisShape(
  { peftType, r, alpha, rankPattern, alphaPattern, useEffectiveConv2d }: LycorisConfig,
  site: Site,
): { readonly rank: number; readonly scale: number; readonly tucker: boolean } {
  checkConvolution(peftType, site, { ranks: [1, 2], groups: true });
  const rank = patternValue(rankPattern, site.path) ?? r;
  return {
    rank,
    scale: (patternValue(alphaPattern, site.path) ?? alpha) / rank,
    tucker: useEffectiveConv2d && site.conv?.kernel.some((k) => k > 1) === true,
  };
}

/** The kernel of a site in the two dimensions that a Tucker core has. */
export function coreShape(rank: number, { conv }: Site): readonly number[] {
  const [height, width = 1] = conv!.kernel;
  return [rank, rank, height, width];
}

/** A weight [O, I, ...K] from a core [r, r, ...K] and its factors a [r, O] and b [r, I]. */
export function tucker(core: Value, { a, b }: { readonly a: Value; readonly b: Value }): Value {
  const [rank, , ...kernel] = core.shape, [, out] = a.shape, [, inner] = b.shape;
  const rows = matmul(a, reshape(core, [rank, -1]), { transposeA: true });
  const weight = matmul(b, reshape(rows, [out, rank, -1]), { transposeA: true });
  return reshape(weight, [out, inner, ...kernel]);
}

/** A delta in the shape of the weight of its site. */
export function asWeight(delta: Value, site: Site): Value {
  return reshape(delta, weightShape(site));
}

/**
 * What training keeps of the delta, as factors on what it adds: of each output feature, with
 * `balanced` such that their mean is 1, and of the site as a whole.
 */
export function lycorisKeep(
  { pass, config, site }: SiteTrace<LycorisConfig>,
  { balanced }: { readonly balanced: boolean },
): Value | undefined {
  const { rankDropout, moduleDropout } = config, { outFeatures: size } = site;
  if (!rankDropout && !moduleDropout) return undefined;
  // In the order of PEFT's draws.
  const draws = pass.noise(site.path, [1 + size]);
  const kept = (start: number, size: number, rate: number) =>
    cast(greater(sliceAxis(draws, { axis: 0, start, size }), rate), "f32");
  const whole = kept(0, 1, moduleDropout);
  if (!rankDropout) return whole;
  const rows = kept(1, size, rankDropout);
  // Where all are dropped there is nothing to balance.
  const even = balanced ? div(rows, max(mean(rows), 1 / size)) : rows;
  return perFeature(site, mul(even, whole));
}
