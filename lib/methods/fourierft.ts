/**
 * FourierFT: fine-tuning with the discrete Fourier transform (Gao et al., 2024, arXiv:2405.03003).
 *
 * The change of a weight [O, I] is the real part of the inverse transform of a spectrum that is zero
 * but for n coefficients s at random places (u, v):
 *
 *     ΔW[o, i] = scaling / (O·I) · Σ s·cos(2π(u·o/O + v·i/I))
 *
 * As cos(a + b) = cos a·cos b − sin a·sin b, it is a product of two matrices with an inner dimension
 * of 2n; where it is formed, a transform in steps takes less.
 *
 * @module
 */
import type { LowRank } from "../model/weight.ts";
import { concat } from "../ops/concat.ts";
import { add, div, mul, neg, sub } from "../ops/elementwise.ts";
import { gather, scatterAdd } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { type ConfigSchema, field, parseConfig } from "./config.ts";
import { UNFUSED_TARGETS } from "./default-targets.ts";
import { patternValueAtEnd } from "./site-pattern.ts";
import { lowRankRule } from "./low-rank.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { placesAlong } from "./places.ts";
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

const rule: DeltaRule<FourierFtConfig> = {
  ...lowRankRule(factors),
  delta(trace) {
    const { site: { kind, outFeatures, inFeatures } } = trace;
    const values = scaledSpectrum(trace), places = placesOf(trace, values);
    const isTall = outFeatures > inFeatures;
    const rows = placesAlong(places, 0), columns = placesAlong(places, 1);
    const [short, long] = isTall ? [columns, rows] : [rows, columns];
    const sizes = [outFeatures, inFeatures].sort((a, b) => a - b);
    const delta = inverse({ values, short, long }, sizes);
    return isTall === (kind === "conv1d") ? delta : transpose(delta);
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
  const columns = waves(placesAlong(places, 0), outFeatures, { as: "columns" });
  const rows = waves(placesAlong(places, 1), inFeatures, { as: "rows" });
  const values = reshape(concat([s, neg(s)], { axis: 0 }), [-1, 1]);
  return {
    left: concat([columns.cosines, columns.sines], { axis: 1 }),
    right: mul(concat([rows.cosines, rows.sines], { axis: 0 }), values),
  };
}

/** Values [n] and their rows and columns in a spectrum [A, B]. */
interface Spectrum {
  readonly values: Value;
  readonly short: Value;
  readonly long: Value;
}

/**
 * The real part of the inverse transform of a spectrum [A, B], times its size.
 *
 * The wave of A − u and B − v is that of u and v, so that half of the rows are enough. Along B a
 * transform is made in two steps, as a fast one is: with B = P·Q, v = Q·v₁ + v₂ and i = i₁ + P·i₂,
 * the turns v·i / B are v·i₁ / B + v₂·i₂ / Q. Only the second step goes over a matrix, as the first
 * has few values. Along A, a wave of A − o is that of o with another sign of the sine.
 */
function inverse({ values, short, long }: Spectrum, [size, width]: readonly number[]): Value {
  const { graph } = values, half = Math.floor(size / 2) + 1, count = size - half;
  const p = firstStep({ values: values.shape[0], rows: half, width }), q = width / p;
  const isUpper = div(short, half);
  const turned = (x: Value, n: number) => add(x, mul(isUpper, sub(n, mul(x, 2))));
  const all = (n: number) => iota(graph, [n], { axis: 0 });
  const v = turned(long, width), first = waves(v, width, { as: "rows", steps: p });
  const table = scatterAdd(
    mul(concat([first.cosines, first.sines], { axis: 1 }), reshape(values, [-1, 1])),
    add(mul(turned(short, size), q), sub(v, mul(div(v, q), q))),
    { rows: half * q },
  );
  const second = waves(all(q), q, { as: "columns" });
  const down = waves(all(half), size, { as: "columns", steps: half });
  const along = (of: keyof Waves, factors: readonly [real: Value, imaginary: Value]) => {
    const step = reshape(concat(factors.map((x) => reshape(x, [q, q, 1])), { axis: 2 }), [
      q,
      2 * q,
    ]);
    const across = matmul(step, reshape(table, [half, 2 * q, p]));
    return matmul(down[of], reshape(across, [half, width]));
  };
  const even = along("cosines", [second.cosines, neg(second.sines)]);
  const odd = along("sines", [second.sines, second.cosines]), lower = sub(even, odd);
  if (count === 0) return lower;
  const upper = gather(add(even, odd), sub(count, all(count)));
  return concat([lower, upper], { axis: 0 });
}

/** The divisor P of a width that leaves least to do: of elements, about 50 products take as long. */
function firstStep(of: { readonly values: number; readonly rows: number; readonly width: number }) {
  const { values, rows, width } = of;
  const price = (p: number) => 50 * 4 * values * p + 4 * rows * width * (width / p);
  const divisors = Array.from({ length: width }, (_, i) => i + 1).filter((p) => width % p === 0);
  return divisors.reduce((best, p) => price(p) < price(best) ? p : best);
}
