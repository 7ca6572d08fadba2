/**
 * PSOFT: orthogonal fine-tuning in the principal subspace of the weight (Wu et al., 2026,
 * openreview.net/forum?id=FSHrinMArK).
 *
 * A linear layer becomes y = W·x + s·B·(R − I)·A·x. B·A is s⁻¹ times the best approximation of W of
 * rank r, and fixed; it is not saved, and follows from W. R [r, r] turns what A gives: it comes from
 * a skew-symmetric matrix by the Cayley transform, exactly or as a Neumann series, or is any matrix;
 * vectors stretch what comes out of it (`vector_b`) and what goes in (`vector_a`).
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import { add, div, max, min, mul, sqrt, sub } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { cayley, cayleyNeumann, identity, skewSymmetric } from "./cayley.ts";
import {
  checkTargets,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type TargetConfig,
  type TargetedConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { lapackSvd } from "./lapack-svd.ts";
import {
  approximateSvd,
  flatMatrix,
  type LeadingSvd,
  matrixTensor,
  scaledRows,
  transposed,
} from "./linalg.ts";
import type { InitSource, Leaves, PeftMethod, SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";
import { createTorchRandom } from "./torch-random.ts";

/** A PSOFT config with every field, as {@link psoftConfig} makes it. */
export interface PsoftConfig extends TargetedConfig, Required<Pick<TargetConfig, "fanInFanOut">> {
  /** `"PSOFT"`. */
  readonly peftType: "PSOFT";
  /** Rank: dimensions of the subspace, at most the features of a layer. 32 by default. */
  readonly r: number;
  /** What is added is multiplied by `psoftAlpha / r`, and B·A divided by it. 32 by default. */
  readonly psoftAlpha: number;
  /** Probability with which training drops an input feature before A. 0 by default. */
  readonly psoftDropout: number;
  /**
   * Where the singular values go: all to B, so that the rows of A are orthonormal (`"psoft_init"`,
   * default), or their roots to both.
   */
  readonly abSvdInit: "psoft_init" | "pissa_init";
  /** How the subspace is found: exactly (default), or from a random start, which is faster. */
  readonly psoftSvd: "full" | "lowrank";
  /** How often a random start is refined. 10 by default. */
  readonly psoftSvdLowrankNiter: number;
  /** Seed of a random start. 0 by default. */
  readonly randomSeed: number;
  /** Whether R is orthogonal (default); any matrix otherwise. */
  readonly psoftOrth: boolean;
  /** Whether what R gives is stretched by a vector. True by default. */
  readonly psoftMagB: boolean;
  /** Whether what goes into R is stretched by a vector. True by default. */
  readonly psoftMagA: boolean;
  /** Whether R is a Neumann series instead of the exact Cayley transform. */
  readonly useCayleyNeumann: boolean;
  /** Terms of the series. 5 by default. */
  readonly numCayleyNeumannTerms: number;
  /** Longest that the skew-symmetric matrix of a series may be, below 1; `null` for any length. */
  readonly cayleyNeumannEps: number | null;
  /** Whether the adapter starts by changing nothing (default); with a random R otherwise. */
  readonly initWeights: boolean;
}

const schema: ConfigSchema<PsoftConfig> = {
  peftType: "PSOFT",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("PSOFT"),
    ...targetFields(),
    r: field.integer(32, 1),
    psoftAlpha: field.integer(32, 1),
    psoftDropout: field.probability(0),
    fanInFanOut: field.boolean(false),
    abSvdInit: field.choice("psoft_init", ["psoft_init", "pissa_init"]),
    psoftSvd: field.choice("full", ["full", "lowrank"]),
    psoftSvdLowrankNiter: field.integer(10, 0),
    randomSeed: z.int().default(0).describe("a whole number"),
    psoftOrth: field.boolean(true),
    psoftMagB: field.boolean(true),
    psoftMagA: field.boolean(true),
    useCayleyNeumann: field.boolean(false),
    numCayleyNeumannTerms: z.int().default(5).describe("a whole number"),
    cayleyNeumannEps: z.number().nullable().default(null).describe("a number or null"),
    initWeights: field.boolean(true),
  },
  check(config) {
    checkTargets(config);
    const { useCayleyNeumann, numCayleyNeumannTerms: terms, cayleyNeumannEps: eps } = config;
    if (!useCayleyNeumann) return;
    if (terms <= 0) {
      throw new ConfigError(
        "CONFIG_PSOFT",
        `numCayleyNeumannTerms must be a whole number above 0; found ${terms}.`,
        { terms },
      );
    }
    if (eps !== null && !(eps > 0 && eps < 1)) {
      throw new ConfigError(
        "CONFIG_PSOFT",
        `cayleyNeumannEps must be between 0 and 1, or null; found ${eps}.`,
        { eps },
      );
    }
  },
};

/**
 * A complete PSOFT config (Wu et al., 2026, openreview.net/forum?id=FSHrinMArK): what lies in the
 * directions that matter most to a weight is rotated.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { psoftConfig } from "@graft/peft";
 * const config = psoftConfig({ r: 64, psoftAlpha: 64, psoftSvd: "lowrank" });
 * console.log(config.psoftSvdLowrankNiter); // 10
 * ```
 */
export function psoftConfig(config: Partial<PsoftConfig> = {}): PsoftConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<PsoftConfig>;

const rule: DeltaRule<PsoftConfig> = {
  delta: (trace) => matmul(matmul(trace.leaves.psoft_B, turn(trace)), trace.leaves.psoft_A),
  dropout: ({ psoftDropout }) => psoftDropout,
  apply: (trace, x) =>
    [trace.leaves.psoft_A, turn(trace), trace.leaves.psoft_B]
      .reduce((y, factor) => matmul(y, factor, { transposeB: true }), x),
};

/** s·(R − I) [r, r] */
function turn({ config, leaves }: Trace): Value {
  const { r, psoftAlpha, psoftOrth } = config;
  const { psoft_R: weight, vector_b, vector_a } = leaves;
  let matrix = psoftOrth ? reshape(orthogonal(config, weight), [r, r]) : weight;
  if (vector_b) matrix = mul(matrix, reshape(vector_b, [r, 1]));
  if (vector_a) matrix = mul(matrix, vector_a);
  return mul(sub(matrix, identity(weight.graph, r)), psoftAlpha / r);
}

function orthogonal(config: PsoftConfig, weight: Value): Value {
  const q = skewSymmetric(reshape(weight, [1, -1]), config.r), { cayleyNeumannEps: eps } = config;
  if (!config.useCayleyNeumann) return cayley(mul(q, -1));
  // The root has no slope at zero.
  const length = sqrt(max(sum(mul(q, q)), 1e-30));
  const short = eps === null ? q : mul(q, min(div(eps, add(length, 1e-12)), 1));
  return cayleyNeumann(short, config.numCayleyNeumannTerms);
}

/** The method `PSOFT`. */
export const psoft: PeftMethod<PsoftConfig> = {
  name: "psoft",
  config: schema,
  leaves: {
    site({ config, site }) {
      const { r, psoftOrth, psoftMagA, psoftMagB } = config;
      const { inFeatures, outFeatures } = site;
      checkRank(config, site);
      let made: Promise<Leaves> | undefined;
      const factor = (leaf: string) => (from: InitSource) =>
        (made ??= factors(config, site, from)).then((all) => all[leaf]);
      const ones = { shape: [r], init: () => new Float32Array(r).fill(1) };
      return {
        psoft_R: {
          shape: psoftOrth ? [r * (r - 1) / 2] : [r, r],
          key: "psoft_R.weight",
          init: ({ random }) => turned(config, random),
        },
        ...psoftMagB && { vector_b: { ...ones, key: "psoft_R.vector_b" } },
        ...psoftMagA && { vector_a: { ...ones, key: "psoft_R.vector_a" } },
        psoft_A: { shape: [r, inFeatures], kind: "fixed", init: factor("psoft_A") },
        psoft_B: { shape: [outFeatures, r], kind: "fixed", init: factor("psoft_B") },
      };
    },
  },
  sites: () => ({ linear: rule }),
};

function checkRank({ r }: PsoftConfig, { path, inFeatures, outFeatures }: Site): void {
  if (r <= Math.min(inFeatures, outFeatures)) return;
  throw new ConfigError(
    "CONFIG_PSOFT_RANK",
    `r (${r}) must be at most the features of each layer, and ${path} has ${inFeatures} in and ` +
      `${outFeatures} out. Set a smaller r, or leave the layer out of targetModules.`,
    { path, r },
  );
}

/** What R begins with: the weights of no rotation or of a random one. */
function turned(
  { r, psoftOrth, initWeights }: PsoftConfig,
  random: InitSource["random"],
): Float32Array<ArrayBuffer> {
  const size = psoftOrth ? r * (r - 1) / 2 : r * r;
  if (psoftOrth) return initWeights ? new Float32Array(size) : random.normal(size, { std: 0.1 });
  const noise = initWeights ? new Float32Array(size) : random.normal(size);
  return noise.map((x, i) => (i % (r + 1) ? 0 : 1) + Math.fround(x * Math.fround(0.1)));
}

/** A and B, whose signs are those of LAPACK, as R belongs to them. */
async function factors(
  config: PsoftConfig,
  site: Site,
  { weight }: InitSource,
): Promise<Leaves> {
  const { r, psoftAlpha, abSvdInit } = config;
  const { inFeatures: columns, outFeatures: rows } = site;
  const { u, s, v } = decomposed(config, flatMatrix(await weight(), { rows, columns }));
  const values = s.map((x) => x / (psoftAlpha / r)), roots = values.map(Math.sqrt);
  const isSplit = abSvdInit === "pissa_init";
  return {
    psoft_A: matrixTensor(isSplit ? scaledRows(v, roots) : v),
    psoft_B: matrixTensor(transposed(scaledRows(u, isSplit ? roots : values))),
  };
}

function decomposed(
  { r, psoftSvd, psoftSvdLowrankNiter: iterations, randomSeed }: PsoftConfig,
  weight: ReturnType<typeof flatMatrix>,
): LeadingSvd {
  if (psoftSvd === "full") return lapackSvd(weight, r);
  const rows = Math.min(weight.rows, weight.columns);
  const start = flatMatrix(createTorchRandom(randomSeed).normal(rows * r), { rows, columns: r });
  return approximateSvd(weight, { start, iterations, svd: lapackSvd });
}
