/**
 * PVeRA: probabilistic vector-based random matrix adaptation (Fillioux et al., 2025, arXiv:2512.07703).
 *
 * A linear layer becomes y = W·x + λ_b ⊙ B·z with z drawn from a normal distribution whose mean μ and
 * logarithm of the variance are the halves of λ_d ⊙ A·x. A [2r, in] and B [out, r] are random, fixed
 * and shared as in VeRA; trained are λ_d [2r] and λ_b [out]. Beyond training z is μ, unless the config
 * asks for draws there too.
 *
 * @module
 */
import { z } from "zod";
import { add, exp, mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { tensor } from "../tensor/tensor.ts";
import {
  checkLayersPattern,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
} from "./config.ts";
import { VERA_TARGETS } from "./default-targets.ts";
import { lowRankRule } from "./low-rank.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import {
  column,
  lambdas,
  type ProjectionConfig,
  projectionFields,
  projectionsAt,
  uniformProjections,
} from "./projections.ts";
import { type DeltaRule, scaled } from "./site-rule.ts";
import { createTorchRandom } from "./torch-random.ts";

/** A PVeRA config with every field, as {@link pveraConfig} makes it: r is 256 by default. */
export interface PveraConfig extends ProjectionConfig {
  /** `"PVERA"`. */
  readonly peftType: "PVERA";
  /**
   * Probability with which an input feature is dropped before the projections in training, from 0
   * up to, but not including, 1. 0 by default.
   */
  readonly pveraDropout: number;
  /** Value that `pvera_lambda_d` starts from. 0.1 by default. */
  readonly dInitial: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"pvera_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "pvera_only";
  /** Whether outputs are drawn at random beyond training, too. False by default: they are the mean. */
  readonly sampleAtInference: boolean;
  /**
   * Seed of these draws: each pass draws what torch's generator of this seed draws first, for every
   * layer alike. 0 where it is `null` (default).
   */
  readonly generatorSeed: number | null;
}

const schema: ConfigSchema<PveraConfig> = {
  peftType: "PVERA",
  targets: { ...VERA_TARGETS, dinov2: ["query", "value"] },
  isIdentityAtInit: true,
  fields: {
    ...commonFields("PVERA"),
    ...projectionFields(256),
    pveraDropout: field.probability(0),
    dInitial: field.float(0.1),
    bias: field.choice("none", ["none", "all", "pvera_only"]),
    sampleAtInference: field.boolean(false),
    generatorSeed: z.int().nullable().default(null).describe("a whole number or null"),
  },
  check: checkLayersPattern,
};

/**
 * A complete PVeRA config (Fillioux et al., 2025, arXiv:2512.07703): VeRA whose inner vectors are drawn around what it
 * would give.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { pveraConfig } from "@graft/peft";
 * const config = pveraConfig({ r: 64, sampleAtInference: true, generatorSeed: 7 });
 * console.log(config.dInitial); // 0.1
 * ```
 */
export function pveraConfig(config: Partial<PveraConfig> = {}): PveraConfig {
  return parseConfig(schema, config);
}

const rule: DeltaRule<PveraConfig> = {
  // The mean.
  ...lowRankRule((trace) => {
    const { config: { r }, leaves: { pvera_lambda_b, pvera_lambda_d } } = trace;
    const { a, b } = at(trace), first = (x: Value) => sliceAxis(x, { axis: 0, start: 0, size: r });
    return {
      left: mul(b, column(pvera_lambda_b)),
      right: mul(first(a), column(first(pvera_lambda_d))),
    };
  }),
  forward(trace, { x, result }) {
    const { pass, config: { r, pveraDropout }, leaves, multiplier } = trace;
    const { a, b } = at(trace);
    const both = mul(
      matmul(pass.dropout(x, pveraDropout), a, { transposeB: true }),
      leaves.pvera_lambda_d,
    );
    const [mean, logVariance] = [0, r].map((start) =>
      sliceAxis(both, { axis: -1, start, size: r })
    );
    const noise = drawn(trace, mean.shape);
    const z = noise ? add(mean, mul(noise, exp(mul(logVariance, 0.5)))) : mean;
    const change = mul(matmul(z, b, { transposeB: true }), leaves.pvera_lambda_b);
    return add(result, scaled(change, multiplier));
  },
};

/** What a site uses of the projections. */
function at(trace: SiteTrace<PveraConfig>): ReturnType<typeof projectionsAt> {
  return projectionsAt(trace, trace.shared.pvera_A, trace.shared.pvera_B);
}

/** Normal numbers, where outputs are drawn. */
function drawn(
  { pass, config, site }: SiteTrace<PveraConfig>,
  shape: readonly number[],
): Value | undefined {
  if (pass.training) return pass.noise(site.path, shape, "normal");
  if (!config.sampleAtInference) return undefined;
  const seed = config.generatorSeed ?? 0;
  const numbers = createTorchRandom(seed).normal(sizeOf(shape));
  return pass.leaf(`${site.path}.draws.${seed}.${shape}`, tensor(numbers, { shape }));
}

/** The method `PVERA`. */
export const pvera: PeftMethod<PveraConfig> = {
  name: "pvera",
  prefix: "pvera_lambda_",
  config: schema,
  leaves: {
    site: ({ config, site }) => lambdas("pvera", config, { b: site.outFeatures, d: 2 * config.r }),
    adapter: ({ config, sites }) =>
      uniformProjections("pvera", config, { sites, rows: 2 * config.r }),
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};
