/**
 * FourierFT: fine-tuning with the discrete Fourier transform (Gao et al., 2024, arXiv:2405.03003).
 *
 * The change of a weight [O, I] is the real part of the inverse transform of a spectrum that is zero
 * but for n coefficients s at random places (u, v):
 *
 *     ΔW[o, i] = scaling / (O·I) · Σ s·cos(2π(u·o/O + v·i/I))
 *
 * As cos(a + b) = cos a·cos b − sin a·sin b, it is a product of two matrices with an inner dimension
 * of 2n, or, where n is large, of one of 2·O.
 *
 * @module
 */
import type { LowRank } from "../model/weight.ts";
import { concat } from "../ops/concat.ts";
import { mul, neg } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { type ConfigSchema, field, parseConfig } from "./config.ts";
import { UNFUSED_TARGETS } from "./default-targets.ts";
import { patternValueAtEnd } from "./site-pattern.ts";
import { lowRankRule } from "./low-rank.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { placesAlong, scattered } from "./places.ts";
import {
  checkSpectrum,
  placesOf,
  type SpectrumConfig,
  spectrumFields,
  spectrumLeaves,
} from "./spectrum.ts";
import { waves } from "./waves.ts";

/** A FourierFT config with every field, as {@link fourierFtConfig} makes it. */
export interface FourierFtConfig extends SpectrumConfig {
  /** `"FOURIERFT"`. */
  readonly peftType: "FOURIERFT";
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or those of the adapted
   * modules, `"fourier_only"` or `"fourierft_only"`.
   */
  readonly bias: "none" | "all" | "fourier_only" | "fourierft_only";
  /**
   * Whether the adapter starts by changing nothing. With `false` (default) the coefficients are
   * normal random numbers.
   */
  readonly initWeights: boolean;
}

const schema: ConfigSchema<FourierFtConfig> = {
  peftType: "FOURIERFT",
  targets: UNFUSED_TARGETS,
  example: { nFrequency: 40 },
  fields: {
    ...spectrumFields("FOURIERFT", { nFrequency: 1000, scaling: 150 }),
    bias: field.choice("none", ["none", "all", "fourier_only", "fourierft_only"]),
    initWeights: field.boolean(false),
  },
  check: checkSpectrum,
};

/**
 * A complete FourierFT config (Gao et al., 2024, arXiv:2405.03003): a few coefficients of the
 * spectrum of each weight's change.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { fourierFtConfig } from "@graft/peft";
 * const config = fourierFtConfig({ nFrequency: 3000, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.scaling); // 150
 * ```
 */
export function fourierFtConfig(config: Partial<FourierFtConfig> = {}): FourierFtConfig {
  return parseConfig(schema, config);
}

const rule = lowRankRule(factors);

/** The method `FOURIERFT`. */
export const fourierft: PeftMethod<FourierFtConfig> = {
  name: "fourierft",
  config: schema,
  leaves: spectrumLeaves({
    name: "fourierft_spectrum",
    count: ({ config, site }) =>
      patternValueAtEnd(config.nFrequencyPattern, site.path) ?? config.nFrequency,
    init({ initWeights }, count, random) {
      // PEFT draws them also where it then sets them to 0.
      const drawn = random.normal(count);
      return initWeights ? drawn.fill(0) : drawn;
    },
  }),
  sites: () => ({ linear: rule, conv1d: rule }),
};

/** ΔW as a product [O, k]·[k, I]: of the chosen waves, or of all where those are less. */
function factors(trace: SiteTrace<FourierFtConfig>): LowRank {
  const { site: { outFeatures, inFeatures }, config: { scaling }, leaves, pass } = trace;
  const s = mul(leaves.fourierft_spectrum, scaling / (outFeatures * inFeatures));
  const places = placesOf(trace, s);
  if (s.shape[0] < outFeatures + inFeatures) {
    const columns = waves(placesAlong(places, 0), outFeatures, "columns");
    const rows = waves(placesAlong(places, 1), inFeatures, "rows");
    const values = reshape(concat([s, neg(s)], { axis: 0 }), [-1, 1]);
    const right = mul(concat([rows.cosines, rows.sines], { axis: 0 }), values);
    return { left: concat([columns.cosines, columns.sines], { axis: 1 }), right };
  }
  const all = (size: number) => waves(iota(pass.graph, [size], { axis: 0 }), size, "columns");
  const spectrum = scattered({ values: s, places }, [outFeatures, inFeatures]);
  const left = all(outFeatures), right = all(inFeatures);
  return {
    left: concat([left.cosines, neg(left.sines)], { axis: 1 }),
    right: concat([matmul(spectrum, right.cosines), matmul(spectrum, right.sines)], { axis: 0 }),
  };
}
