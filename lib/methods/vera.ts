/**
 * VeRA: vector-based random matrix adaptation (Kopiczko et al., 2023, arXiv:2310.11454).
 *
 * A linear layer becomes y = W·x + λ_b ⊙ B·(λ_d ⊙ A·x). A [r, I] and B [O, r] are random and fixed,
 * one pair for the whole adapter and as large as its largest layer needs; a layer with fewer
 * features takes the first columns of A and the first rows of B. Trained are λ_d [r] and
 * λ_b [out].
 *
 * @module
 */
import { mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import {
  checkLayersPattern,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
} from "./config.ts";
import { VERA_TARGETS } from "./default-targets.ts";
import { lowRankRule } from "./low-rank.ts";
import type { PeftMethod } from "./method.ts";
import {
  column,
  lambdas,
  type ProjectionConfig,
  projectionFields,
  projectionsAt,
  uniformProjections,
} from "./projections.ts";
import type { DeltaRule } from "./site-rule.ts";

/** A VeRA config with every field, as {@link veraConfig} makes it: r is 256 by default. */
export interface VeraConfig extends ProjectionConfig {
  /** `"VERA"`. */
  readonly peftType: "VERA";
  /**
   * Probability with which an input feature is dropped before the projections in training, from 0
   * up to, but not including, 1. 0 by default.
   */
  readonly veraDropout: number;
  /** Value that `vera_lambda_d` starts from. 0.1 by default. */
  readonly dInitial: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"vera_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "vera_only";
}

const schema: ConfigSchema<VeraConfig> = {
  peftType: "VERA",
  targets: VERA_TARGETS,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("VERA"),
    ...projectionFields(256),
    veraDropout: field.probability(0),
    dInitial: field.float(0.1),
    bias: field.choice("none", ["none", "all", "vera_only"]),
  },
  // PEFT lets layersToTransform pass with an expression for targetModules, and does not look at it.
  check: checkLayersPattern,
};

/**
 * A complete VeRA config (Kopiczko et al., 2023, arXiv:2310.11454): random projections that all
 * layers share and that stay as they are, and two learned vectors for each layer.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { veraConfig } from "@graft/peft";
 * const config = veraConfig({ r: 128, targetModules: ["q_proj", "v_proj"], saveProjection: false });
 * console.log(config.dInitial); // 0.1
 * ```
 */
export function veraConfig(config: Partial<VeraConfig> = {}): VeraConfig {
  return parseConfig(schema, config);
}

const rule: DeltaRule<VeraConfig> = {
  ...lowRankRule(
    (trace) => {
      const { a, b } = projectionsAt(trace, trace.shared.vera_A, trace.shared.vera_B);
      const { vera_lambda_b, vera_lambda_d } = trace.leaves;
      return { left: mul(b, column(vera_lambda_b)), right: mul(a, column(vera_lambda_d)) };
    },
    ({ veraDropout }) => veraDropout,
  ),
  apply(trace, x) {
    const { a, b } = projectionsAt(trace, trace.shared.vera_A, trace.shared.vera_B);
    const { vera_lambda_b, vera_lambda_d } = trace.leaves;
    const inner = mul(matmul(x, a, { transposeB: true }), vera_lambda_d);
    return mul(matmul(inner, b, { transposeB: true }), vera_lambda_b);
  },
};

/** The method `VERA`. */
export const vera: PeftMethod<VeraConfig> = {
  name: "vera",
  prefix: "vera_lambda_",
  config: schema,
  leaves: {
    site: ({ config, site }) => lambdas("vera", config, { b: site.outFeatures, d: config.r }),
    adapter: ({ config, sites }) => uniformProjections("vera", config, { sites, rows: config.r }),
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};
