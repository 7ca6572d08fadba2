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
import { cast } from "../ops/cast.ts";
import { concat } from "../ops/concat.ts";
import { add, cos, div, mul, neg, sin, sub } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import type { Value } from "../ops/value.ts";
import { type ConfigSchema, field, parseConfig } from "./config.ts";
import { patternValueAtEnd } from "./lora/lora-config.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";
import {
  checkSpectrum,
  placesAlong,
  placesOf,
  scattered,
  SPECTRUM_TARGETS,
  type SpectrumConfig,
  spectrumFields,
  spectrumLeaves,
} from "./spectrum.ts";

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
  targets: SPECTRUM_TARGETS,
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

const rule: DeltaRule<FourierFtConfig> = {
  delta(trace) {
    const { left, right } = factors(trace);
    return trace.site.kind === "conv1d"
      ? matmul(right, left, { transposeB: true })
      : matmul(left, right, { transposeB: true });
  },
  apply(trace, x) {
    const { left, right } = factors(trace);
    return matmul(matmul(x, right), left, { transposeB: true });
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

/** ΔW = left [O, k] · right [I, k]ᵀ: of the chosen waves, or of all where those are less. */
function factors(
  trace: SiteTrace<FourierFtConfig>,
): { readonly left: Value; readonly right: Value } {
  const { site: { outFeatures, inFeatures }, config: { scaling }, leaves, pass } = trace;
  const s = mul(leaves.fourierft_spectrum, scaling / (outFeatures * inFeatures));
  const places = placesOf(trace, s);
  if (s.shape[0] < outFeatures + inFeatures) {
    const left = joined(waves(placesAlong(places, 0), outFeatures));
    const right = joined(waves(placesAlong(places, 1), inFeatures));
    return { left, right: mul(right, concat([s, neg(s)], { axis: 0 })) };
  }
  const all = (size: number) => waves(iota(pass.graph, [size], { axis: 0 }), size);
  const spectrum = scattered(s, places, [outFeatures, inFeatures]);
  const { cosines, sines } = all(inFeatures);
  const right = joined({
    cosines: matmul(cosines, spectrum, { transposeB: true }),
    sines: neg(matmul(sines, spectrum, { transposeB: true })),
  });
  return { left: joined(all(outFeatures)), right };
}

/** Two matrices of one size. */
interface Waves {
  readonly cosines: Value;
  readonly sines: Value;
}

function joined({ cosines, sines }: Waves): Value {
  return concat([cosines, sines], { axis: 1 });
}

/** Waves [size, n] of frequencies [n], which are whole numbers below their size. */
function waves(frequencies: Value, size: number): Waves {
  const modulo = (x: Value, n: number) => sub(x, mul(div(x, n), n));
  const step = iota(frequencies.graph, [size, 1], { axis: 0 });
  // In two parts, as the product of two sizes of vocabularies is more than i32 holds.
  const high = modulo(mul(div(step, PART), frequencies), size);
  const low = mul(modulo(step, PART), frequencies);
  const turn = modulo(add(mul(high, PART), low), size);
  const angle = mul(cast(turn, "f32"), 2 * Math.PI / size);
  return { cosines: cos(angle), sines: sin(angle) };
}

const PART = 256;
