/**
 * What methods share whose weights are few coefficients at random places: of a spectrum, or of the
 * change itself.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import type { Value } from "../ops/value.ts";
import {
  checkTargets,
  commonFields,
  type ConfigFields,
  field,
  type TargetConfig,
  type TargetedConfig,
  targetFields,
} from "./config.ts";
import { pattern } from "./site-pattern.ts";
import type { LeafRule, LeafRules, SitePlace, SiteTrace } from "./method.ts";
import { placesTensor } from "./places.ts";
import { pythonRegExp } from "./python-regex.ts";
import { createTorchRandom, type TorchRandom } from "./torch-random.ts";

/** The fields that configs of a spectrum share. */
export interface SpectrumConfig
  extends TargetedConfig, Required<Pick<TargetConfig, "fanInFanOut">> {
  /**
   * Number of coefficients that each layer trains, at most as many as its weight has elements.
   */
  readonly nFrequency: number;
  /** Other numbers, by module name or regular expression; the first that fits counts. */
  readonly nFrequencyPattern: Readonly<Record<string, number>>;
  /** Factor of the change, as `loraAlpha` is for LoRA. */
  readonly scaling: number;
  /**
   * Seed of the places, which are the same for all layers of one size. 777 by default. Files do not
   * hold the places.
   */
  readonly randomLocSeed: number;
}

/** The fields of {@link SpectrumConfig}. */
export function spectrumFields<T extends string>(
  peftType: T,
  { nFrequency, scaling }: Pick<SpectrumConfig, "nFrequency" | "scaling">,
): ConfigFields<SpectrumConfig & { readonly peftType: T }> {
  return {
    ...commonFields(peftType),
    ...targetFields(),
    nFrequency: field.integer(nFrequency, 1),
    nFrequencyPattern: pattern(z.int().min(1), "whole numbers above 0"),
    scaling: field.float(scaling),
    randomLocSeed: z.int().default(777).describe("a whole number"),
    fanInFanOut: field.boolean(false),
  };
}

/** Checks {@link SpectrumConfig}. */
export function checkSpectrum(config: SpectrumConfig): void {
  checkTargets(config);
  Object.keys(config.nFrequencyPattern).forEach(pythonRegExp);
}

/**
 * The leaves of a method of a spectrum: coefficients of each site, and their places, which sites of
 * one size and count share.
 */
export function spectrumLeaves<C extends SpectrumConfig>(of: {
  /** The name of the coefficients. */
  readonly name: string;
  /** How many a site has. */
  count(at: SitePlace<C>): number;
  /** What they begin as. */
  init(config: C, count: number, random: TorchRandom): Float32Array<ArrayBuffer>;
}): LeafRules<C> {
  const { name, count, init } = of;
  return {
    site(at) {
      const { site: { inFeatures, outFeatures, path }, config } = at;
      const found = count(at), most = inFeatures * outFeatures;
      if (found > most) {
        throw new ConfigError(
          "CONFIG_FREQUENCIES",
          `nFrequency is ${found} at ${path}, and more than the ${most} elements of its weight [${outFeatures}, ${inFeatures}]. Lower it there by nFrequencyPattern, or everywhere.`,
          { path, count: found, most },
        );
      }
      return { [name]: { shape: [found], init: ({ random }) => init(config, found, random) } };
    },
    adapter: (at) =>
      Object.fromEntries(
        at.sites.map((site) => {
          const found = count({ ...at, site });
          return [placesName(site, found), placesLeaf(at.config.randomLocSeed, site, found)];
        }),
      ),
  };
}

function placesName({ outFeatures, inFeatures }: Site, count: number): string {
  return `places_${outFeatures}_${inFeatures}_${count}`;
}

/** The first places of a random order of the elements of a weight: rows, then columns. */
function placesLeaf(seed: number, { outFeatures, inFeatures }: Site, count: number): LeafRule {
  return {
    shape: [2, count],
    kind: "fixed",
    key: null,
    whole: { stored: "i32", below: Math.max(outFeatures, inFeatures) },
    init() {
      const places = createTorchRandom(seed).permutation(outFeatures * inFeatures, count);
      return placesTensor(places, inFeatures);
    },
  };
}

/** The places [2, n] of the n coefficients of a site. */
export function placesOf({ shared, site }: SiteTrace<SpectrumConfig>, values: Value): Value {
  return shared[placesName(site, values.shape[0])];
}
