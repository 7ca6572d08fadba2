/**
 * FourierFT: fine-tuning with the discrete Fourier transform (Gao et al., 2024, arXiv:2405.03003).
 *
 * The change of a weight [O, I] is the real part of the inverse transform of a spectrum that is zero
 * but for n coefficients s at random places (u, v):
 *
 *     ΔW[o, i] = scaling / (O·I) · Σ s·cos(2π(u·o/O + v·i/I))
 *
 * As cos(a + b) = cos a·cos b − sin a·sin b, it is a product of two matrices with an inner dimension
 * of 2n; where n is large, the transform of the whole spectrum takes less.
 *
 * @module
 */
import type { LowRank } from "../model/weight.ts";
import { concat } from "../ops/concat.ts";
import { add, mul, neg, sub } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { pad, sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { type ConfigSchema, field, parseConfig } from "./config.ts";
import { UNFUSED_TARGETS } from "./default-targets.ts";
import { patternValueAtEnd } from "./site-pattern.ts";
import { lowRankRule } from "./low-rank.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { placesAlong, scattered } from "./places.ts";
import type { DeltaRule } from "./site-rule.ts";
import {
  checkSpectrum,
  placesOf,
  type SpectrumConfig,
  spectrumFields,
  spectrumLeaves,
} from "./spectrum.ts";
import { type Waves, waves } from "./waves.ts";

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

const products = lowRankRule(factors);

const rule: DeltaRule<FourierFtConfig> = {
  ...products,
  delta(trace) {
    const { site: { kind, outFeatures, inFeatures }, leaves } = trace;
    const shorter = Math.min(outFeatures, inFeatures);
    const few = 4 * leaves.fourierft_spectrum.shape[0] <
      2 * shorter + Math.max(outFeatures, inFeatures);
    if (few) return products.delta(trace);
    const s = scaledSpectrum(trace), isTall = outFeatures >= inFeatures;
    const spectrum = scattered({ values: s, places: placesOf(trace, s) }, [
      outFeatures,
      inFeatures,
    ]);
    const delta = inverse(isTall ? spectrum : transpose(spectrum));
    return isTall === (kind === "conv1d") ? transpose(delta) : delta;
  },
};

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

/** The coefficients with all factors. */
function scaledSpectrum({ site, config, leaves }: SiteTrace<FourierFtConfig>): Value {
  const scale = config.scaling / (site.outFeatures * site.inFeatures);
  return mul(leaves.fourierft_spectrum, scale);
}

/** ΔW as a product [O, 2n]·[2n, I] of the chosen waves. */
function factors(trace: SiteTrace<FourierFtConfig>): LowRank {
  const { site: { outFeatures, inFeatures } } = trace;
  const s = scaledSpectrum(trace), places = placesOf(trace, s);
  const columns = waves(placesAlong(places, 0), outFeatures, "columns");
  const rows = waves(placesAlong(places, 1), inFeatures, "rows");
  const values = reshape(concat([s, neg(s)], { axis: 0 }), [-1, 1]);
  return {
    left: concat([columns.cosines, columns.sines], { axis: 1 }),
    right: mul(concat([rows.cosines, rows.sines], { axis: 0 }), values),
  };
}

/**
 * The real part of the inverse transform of a spectrum [A, B], times its size. A wave of A − u is that
 * of u with another sign of the sine, before and after: half of the products along B are enough, and a
 * quarter of those along A.
 */
function inverse(spectrum: Value): Value {
  const { graph, shape: [size, width] } = spectrum, half = Math.floor(size / 2) + 1;
  const count = size - half;
  const rows = (x: Value, size: number) => sliceAxis(x, { axis: 0, start: 0, size });
  const all = (n: number, size: number) => waves(iota(graph, [n], { axis: 0 }), size, "columns");
  const across = all(width, width), down = all(half, size), lower = rows(spectrum, half);
  const transformed = (x: Value, of: keyof Waves) =>
    matmul(rows(down[of], half), matmul(x, across[of]));
  if (count === 0) return sub(transformed(lower, "cosines"), transformed(lower, "sines"));
  const step = iota(graph, [count], { axis: 0 });
  const upper = pad(gather(spectrum, sub(size - 1, step)), {
    low: [1, 0],
    high: [half - 1 - count, 0],
  });
  const even = transformed(add(lower, upper), "cosines");
  const odd = transformed(sub(lower, upper), "sines");
  return concat([sub(even, odd), gather(add(even, odd), sub(count, step))], { axis: 0 });
}
