/**
 * DEFT: decompositional efficient fine-tuning (Kumar et al., 2025, arXiv:2509.22793), and PaRa, which
 * only takes away (Chen et al., 2024, arXiv:2406.05641).
 *
 * The weight W [out, in] of a linear layer becomes W − Q·Pᵀ·W + s·Q·R: what it does in a subspace of
 * its outputs is taken out, and replaced by what is learned. Learned are a matrix [out, r], which
 * gives Q and P, and R [r, in]: either Q is that matrix, and P what is positive of it, or both are its
 * orthonormal columns.
 *
 * @module
 */
import { z } from "zod";
import { isOutIn, type Site } from "../model/site.ts";
import { product } from "../model/site-product.ts";
import { dense } from "../model/weight.ts";
import { add, mul, neg, sub } from "../ops/elementwise.ts";
import { relu } from "../ops/functions.ts";
import { matmul } from "../ops/matmul.ts";
import { orthonormalColumns as tracedColumns } from "../ops/orthonormal-columns.ts";
import type { Value } from "../ops/value.ts";
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
import { flatMatrix, matrixProduct, orthonormalColumns, transposed } from "./linalg.ts";
import type { LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import { type DeltaRule, scaled } from "./site-rule.ts";

/** A DEFT config with every field, as {@link deftConfig} makes it. */
export interface DeftConfig extends TargetedConfig, Required<Pick<TargetConfig, "fanInFanOut">> {
  /** `"DEFT"`. */
  readonly peftType: "DEFT";
  /** Dimension of the subspace; the features that come out, where they are fewer. 8 by default. */
  readonly r: number;
  /**
   * Whether the learned matrix spans the subspace as it is and its positive part says what is taken
   * out (`"relu"`, the default), or its orthonormal columns do both (`"qr"`).
   */
  readonly decompositionMethod: "relu" | "qr";
  /** Factor on the random numbers that R starts from without `initWeights`. 1 by default. */
  readonly initScale: number;
  /** What R is scaled by, over r; `null` (default) or 0 for no scale. */
  readonly alpha: number | null;
  /** Whether there is no R (PaRa), so that something is missing from the start. False by default. */
  readonly para: boolean;
  /**
   * Probability with which an input feature is dropped before R in training, from 0 up to, but not
   * including, 1. 0 by default.
   */
  readonly deftDropout: number;
  /**
   * Whether R starts as what is taken out (default), so that the adapter changes nothing at first; it
   * is random otherwise.
   */
  readonly initWeights: boolean;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"deft_only"`, those of
   * the adapted modules.
   */
  readonly bias: "none" | "all" | "deft_only";
}

const schema: ConfigSchema<DeftConfig> = {
  peftType: "DEFT",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("DEFT"),
    ...targetFields(),
    r: field.integer(8, 1),
    decompositionMethod: field.choice("relu", ["relu", "qr"]),
    initScale: field.float(1),
    alpha: z.number().nullable().default(null).describe("a number or null"),
    para: field.boolean(false),
    fanInFanOut: field.boolean(false),
    deftDropout: field.probability(0),
    initWeights: field.boolean(true),
    bias: field.choice("none", ["none", "all", "deft_only"]),
  },
  check: checkTargets,
};

/**
 * A complete DEFT config (Kumar et al., 2025, arXiv:2509.22793): a subspace of what a layer gives is
 * learned anew.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { deftConfig } from "@graft/peft";
 * const config = deftConfig({ r: 4, decompositionMethod: "qr", targetModules: ["q_proj"] });
 * console.log(config.para); // false
 * ```
 */
export function deftConfig(config: Partial<DeftConfig> = {}): DeftConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<DeftConfig>;

/** What is taken out depends on the base's own weight, so that adapters do not depend on others. */
const rule: DeltaRule<DeftConfig> = {
  delta(trace) {
    const { pass, site } = trace, { q, p } = subspace(trace), outIn = isOutIn(site);
    const weight = dense(pass.weight(`${site.path}.weight`));
    const removed = matmul(p, weight, { transposeA: true, transposeB: !outIn });
    const r = injected(trace), inner = r ? sub(r, removed) : neg(removed);
    return outIn ? matmul(q, inner) : matmul(inner, q, { transposeA: true, transposeB: true });
  },
  forward(trace, { x, result }) {
    const { pass, site, config, multiplier } = trace, { q, p } = subspace(trace);
    const removed = matmul(product(site, x, pass.weight(`${site.path}.weight`)), p);
    const r = injected(trace);
    const inner = r
      ? sub(matmul(pass.dropout(x, config.deftDropout), r, { transposeB: true }), removed)
      : neg(removed);
    return add(result, scaled(matmul(inner, q, { transposeB: true }), multiplier));
  },
};

/** Q and P [out, r]. */
function subspace(
  { config, leaves: { deft_P } }: Trace,
): { readonly q: Value; readonly p: Value } {
  if (config.decompositionMethod === "relu") return { q: deft_P, p: relu(deft_P) };
  const q = tracedColumns(deft_P);
  return { q, p: q };
}

/** R, scaled. */
function injected({ config, site, leaves: { deft_R } }: Trace): Value | undefined {
  return deft_R && mul(deft_R, shapeAt(config, site).scale);
}

function shapeAt(
  { r, alpha }: DeftConfig,
  { outFeatures }: Site,
): { readonly rank: number; readonly scale: number } {
  const rank = Math.min(r, outFeatures);
  return { rank, scale: alpha ? alpha / rank : 1 };
}

/** The method `DEFT`. */
export const deft: PeftMethod<DeftConfig> = {
  name: "deft",
  config: schema,
  leaves: {
    site({ config, site }): Readonly<Record<string, LeafRule>> {
      const { inFeatures, outFeatures } = site, { rank, scale } = shapeAt(config, site);
      let spanning: Float32Array;
      const deft_P: LeafRule = {
        shape: [outFeatures, rank],
        init: ({ random }) => spanning = random.normal(outFeatures * rank, { std: 0.02 }),
      };
      const deft_R: LeafRule = {
        shape: [rank, inFeatures],
        async init({ random, weight }) {
          const { initWeights, initScale, decompositionMethod } = config;
          if (!initWeights) return random.normal(rank * inFeatures, { std: 0.02 * initScale });
          const own = flatMatrix(spanning, { rows: outFeatures, columns: rank });
          const p = decompositionMethod === "qr"
            ? orthonormalColumns(own)
            : { ...own, data: own.data.map((x) => Math.max(x, 0)) };
          const columns = { rows: outFeatures, columns: inFeatures };
          const { data } = matrixProduct(transposed(p), flatMatrix(await weight(), columns));
          return Float32Array.from(data, (x) => x / scale);
        },
      };
      return config.para ? { deft_P } : { deft_P, deft_R };
    },
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};
