/**
 * WaveFT: wavelet fine-tuning (Bilican et al., 2025, arXiv:2505.12532).
 *
 * The change of a weight [O, I] is what one step of the inverse wavelet transform makes of a matrix that
 * is zero but for n coefficients at random places, or that matrix itself. The transform is a product
 * with one matrix for rows and one for columns; a coefficient becomes a patch as large as the
 * wavelet's filters are long.
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import type { LowRank } from "../model/weight.ts";
import { broadcast } from "../ops/broadcast.ts";
import { concat } from "../ops/concat.ts";
import { add, and, div, greaterEqual, less, max, min, mul, sub } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { type ConfigSchema, field, parseConfig } from "./config.ts";
import { UNFUSED_TARGETS } from "./default-targets.ts";
import { patternValue } from "./site-pattern.ts";
import { lowRankRule } from "./low-rank.ts";
import type { PeftMethod, SitePlace, SiteTrace } from "./method.ts";
import { placesAlong, scattered, type Sparse, sparseRule } from "./places.ts";
import type { DeltaRule } from "./site-rule.ts";
import {
  checkSpectrum,
  placesOf,
  type SpectrumConfig,
  spectrumFields,
  spectrumLeaves,
} from "./spectrum.ts";
import { filterLength, synthesisFilters, WAVELETS } from "./wavelets.ts";

/** A WaveFT config with every field, as {@link waveFtConfig} makes it. */
export interface WaveFtConfig extends SpectrumConfig {
  /** `"WAVEFT"`. */
  readonly peftType: "WAVEFT";
  /**
   * The wavelet: `db1` (default) to `db38`, `sym2` to `sym20` or `coif1` to `coif17`. The higher, the
   * more elements one coefficient changes.
   */
  readonly waveletFamily: string;
  /** Whether coefficients are those of a wavelet (default), or elements of the change itself. */
  readonly useIdwt: boolean;
  /**
   * Whether layers have coefficients in proportion to the size of their weights, `nFrequency` on
   * average, whatever `nFrequencyPattern` says.
   */
  readonly proportionalParameters: boolean;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"waveft_only"`,
   * those of the adapted modules.
   */
  readonly bias: "none" | "all" | "waveft_only";
  /**
   * Whether the adapter starts by changing nothing (default). With `false` the coefficients are
   * small normal random numbers.
   */
  readonly initWeights: boolean;
}

const { btlm: _btlm, rwkv: _rwkv, rwkv7: _rwkv7, ...targets } = UNFUSED_TARGETS;

const schema: ConfigSchema<WaveFtConfig> = {
  peftType: "WAVEFT",
  targets,
  isIdentityAtInit: true,
  example: { nFrequency: 40 },
  fields: {
    ...spectrumFields("WAVEFT", { nFrequency: 2592, scaling: 25 }),
    waveletFamily: field.choice("db1", WAVELETS),
    useIdwt: field.boolean(true),
    proportionalParameters: field.boolean(false),
    bias: field.choice("none", ["none", "all", "waveft_only"]),
    initWeights: field.boolean(true),
  },
  check: checkSpectrum,
};

/**
 * A complete WaveFT config (Bilican et al., 2025, arXiv:2505.12532): a few wavelet coefficients of
 * each weight's change.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { waveFtConfig } from "@graft/peft";
 * const config = waveFtConfig({ nFrequency: 1000, waveletFamily: "sym4" });
 * console.log(config.scaling); // 25
 * ```
 */
export function waveFtConfig(config: Partial<WaveFtConfig> = {}): WaveFtConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<WaveFtConfig>;

const leaves = spectrumLeaves<WaveFtConfig>({
  name: "waveft_spectrum",
  count: countOf,
  init: ({ initWeights }, count, random) =>
    initWeights ? new Float32Array(count) : random.normal(count).map((x) => x * Math.fround(0.01)),
});

const direct = sparseRule(coefficients), patches = sparseRule(patchesOf);
const products = lowRankRule(factors);

/** Adds patches one by one where they are few, and multiplies with the whole transform elsewhere. */
const transformed: DeltaRule<WaveFtConfig> = {
  ...products,
  delta: (trace) => (fewElements(trace) ? patches : products).delta(trace),
};

/** The method `WAVEFT`. */
export const waveft: PeftMethod<WaveFtConfig> = {
  name: "waveft",
  config: schema,
  leaves: {
    ...leaves,
    adapter: (at) => ({
      ...leaves.adapter!(at),
      filters: {
        shape: [2 * filterLength(at.config.waveletFamily), 1],
        kind: "fixed",
        key: null,
        init: () => synthesisFilters(at.config.waveletFamily),
      },
    }),
  },
  sites({ useIdwt }) {
    const rule = useIdwt ? transformed : direct;
    return { linear: rule, conv1d: rule };
  },
};

function countOf({ config, site, sites }: SitePlace<WaveFtConfig>): number {
  const { nFrequency, nFrequencyPattern, proportionalParameters } = config;
  if (!proportionalParameters) return patternValue(nFrequencyPattern, site.path) ?? nFrequency;
  const size = ({ inFeatures, outFeatures }: Site) => inFeatures * outFeatures;
  const share = size(site) / sites.reduce((sum, other) => sum + size(other), 0);
  return Math.max(1, roundHalfEven(share * (nFrequency * sites.length)));
}

/** As Python rounds: what lies in the middle, to the even number. */
function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + below % 2 : Math.round(x);
}

/** Coefficients and their places, as rows and columns of the weight. */
function coefficients(trace: Trace): Sparse {
  const values = mul(trace.leaves.waveft_spectrum, trace.config.scaling);
  return { values, places: placesOf(trace, values) };
}

/**
 * A side of the matrix of coefficients: as long as the change and what the transform cuts off, and even.
 * Its first half is for the low-pass filter.
 */
function sideOf(size: number, length: number): { readonly half: number; readonly before: number } {
  const half = Math.ceil((size + length - 2) / 2);
  return { half, before: Math.floor((2 * half - size) / 2) };
}

/** Where coefficients of one side are: in which half, and how far in it; both [n] in i32. */
interface Along {
  readonly half: Value;
  readonly step: Value;
}

/** The coefficients among those of a whole transform: by the filter for rows and that for columns. */
function inTransform(
  trace: Trace,
): {
  readonly values: Value;
  readonly rows: Along;
  readonly columns: Along;
  readonly length: number;
} {
  const { site: { outFeatures, inFeatures }, shared: { filters } } = trace;
  const { values, places } = coefficients(trace), length = filters.shape[0] / 2;
  const split = (axis: 0 | 1, size: number) => {
    const { half: n, before } = sideOf(size, length);
    const at = add(placesAlong(places, axis), before), half = div(at, n);
    return { half, step: sub(at, mul(half, n)) };
  };
  const rows = split(0, outFeatures), columns = split(1, inFeatures);
  // PEFT calls the quarter to the right that of horizontal details, which are high-pass along rows.
  return {
    values,
    length,
    rows: { half: columns.half, step: rows.step },
    columns: { half: rows.half, step: columns.step },
  };
}

/** Elements [n, length] that coefficients change along a side, and by which factors. */
function spread(
  { half, step }: Along,
  { size, filters }: { readonly size: number; readonly filters: Value },
): { readonly at: Value; readonly by: Value } {
  const length = filters.shape[0] / 2, k = iota(step.graph, [1, length], { axis: 1 });
  const column = (x: Value) => reshape(x, [-1, 1]);
  const at = add(sub(mul(column(step), 2), length - 2), k);
  const factors = reshape(gather(filters, add(mul(column(half), length), k)), at.shape);
  return {
    at: max(min(at, size - 1), 0),
    by: select(and(greaterEqual(at, 0), less(at, size)), factors, 0),
  };
}

function patchesOf(trace: Trace): Sparse {
  const { site: { outFeatures, inFeatures }, shared: { filters } } = trace;
  const { values, rows, columns, length } = inTransform(trace),
    shape = [values.shape[0], length, length];
  const down = spread(rows, { size: outFeatures, filters });
  const across = spread(columns, { size: inFeatures, filters });
  const tall = (x: Value) => reshape(x, [-1, length, 1]);
  const wide = (x: Value) => reshape(x, [-1, 1, length]);
  const flat = (x: Value) => reshape(broadcast(x, shape), [1, -1]);
  return {
    values: mul(reshape(values, [-1, 1, 1]), mul(tall(down.by), wide(across.by))),
    places: concat([flat(tall(down.at)), flat(wide(across.at))], { axis: 0 }),
    repeated: true,
  };
}

/** ΔW = transform of rows [O, H] · (coefficients [H, W] · transform of columns [W, I]). */
function factors(trace: Trace): LowRank {
  const { site: { outFeatures, inFeatures }, shared: { filters } } = trace;
  const { values, rows, columns, length } = inTransform(trace);
  const [height, width] = [outFeatures, inFeatures].map((size) => sideOf(size, length).half);
  const place = ({ half, step }: Along, n: number) => reshape(add(mul(half, n), step), [1, -1]);
  const places = concat([place(rows, height), place(columns, width)], { axis: 0 });
  const matrix = scattered({ values, places }, [2 * height, 2 * width]);
  const left = transpose(transform(outFeatures, filters));
  return { left, right: matmul(matrix, transform(inFeatures, filters)) };
}

/** What each coefficient along a side becomes: [coefficients, size]. */
function transform(size: number, filters: Value): Value {
  const length = filters.shape[0] / 2, { half: n } = sideOf(size, length);
  const all = iota(filters.graph, [2 * n, 1], { axis: 0 }), half = div(all, n);
  const { at, by } = spread({ half, step: sub(all, mul(half, n)) }, { size, filters });
  const flat = (x: Value) => reshape(x, [1, -1]);
  const places = concat([flat(broadcast(all, at.shape)), flat(at)], { axis: 0 });
  return scattered({ values: by, places }, [2 * n, size]);
}

/** Most elements that are added one by one, each of which looks for others at its place. */
const FEW = 2 ** 14;

function fewElements({ leaves: { waveft_spectrum }, shared: { filters } }: Trace): boolean {
  return waveft_spectrum.shape[0] * (filters.shape[0] / 2) ** 2 <= FEW;
}
