/**
 * DeLoRA: decoupled low-rank adaptation (Bini et al., 2025, arXiv:2503.18225).
 *
 * A linear layer becomes y = W·x + B·D·A·(w ⊙ x). D is diagonal and brings each product of a column
 * of B [out, r] and a row of A [r, in] to the length λ / r, so that their sum is no longer than λ,
 * which is learned; w [in] are the lengths of the columns of W as they were when the adapter was
 * made, and stay as they are.
 *
 * @module
 */
import { z } from "zod";
import { div, max, mul, sqrt } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import type { Value } from "../ops/value.ts";
import {
  checkTargets,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type TargetedConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { pattern, patternValue } from "./site-pattern.ts";
import { kaimingUniform } from "./lora/lora-init.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { pythonRegExp } from "./python-regex.ts";
import type { DeltaRule } from "./site-rule.ts";

/** A DeLoRA config with every field, as {@link deloraConfig} makes it. */
export interface DeloraConfig extends TargetedConfig {
  /** `"DELORA"`. */
  readonly peftType: "DELORA";
  /** Rank. 8 by default. */
  readonly r: number;
  /** The bound λ of the change's length that training starts from. 15 by default. */
  readonly deloraLambda: number;
  /**
   * Probability with which an input feature is dropped before A in training, from 0 up to, but not
   * including, 1. 0 by default.
   */
  readonly moduleDropout: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"delora_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "delora_only";
  /**
   * Whether B starts as zero (default), so that the adapter changes nothing at first; it is random
   * otherwise.
   */
  readonly initWeights: boolean;
  /** Other ranks, by module name or regular expression; the first that fits counts. */
  readonly rankPattern: Readonly<Record<string, number>>;
  /** Other bounds to start from, by module name or regular expression; the first that fits counts. */
  readonly lambdaPattern: Readonly<Record<string, number>>;
}

const schema: ConfigSchema<DeloraConfig> = {
  peftType: "DELORA",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("DELORA"),
    ...targetFields(),
    r: field.integer(8, 1),
    deloraLambda: field.number(15),
    moduleDropout: field.probability(0),
    bias: field.choice("none", ["none", "all", "delora_only"]),
    initWeights: field.boolean(true),
    rankPattern: pattern(z.int().min(1), "whole numbers above 0"),
    lambdaPattern: pattern(z.number(), "numbers"),
  },
  check(config) {
    checkTargets(config);
    Object.keys({ ...config.rankPattern, ...config.lambdaPattern }).forEach(pythonRegExp);
  },
};

/**
 * A complete DeLoRA config (Bini et al., 2025, arXiv:2503.18225): LoRA with a learned bound on how
 * far weights go, apart from the direction in which they go.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { deloraConfig } from "@graft/peft";
 * const config = deloraConfig({ r: 4, deloraLambda: 10, lambdaPattern: { v_proj: 5 } });
 * console.log(config.targetModules, config.bias); // null none
 * ```
 */
export function deloraConfig(config: Partial<DeloraConfig> = {}): DeloraConfig {
  return parseConfig(schema, config);
}

const rule: DeltaRule<DeloraConfig> = {
  delta(trace) {
    const { leaves: { delora_A, delora_B, delora_w_norm } } = trace;
    return mul(matmul(mul(delora_B, lengthsOf(trace)), delora_A), delora_w_norm);
  },
  dropout: ({ moduleDropout }) => moduleDropout,
  apply(trace, x) {
    const { leaves: { delora_A, delora_B, delora_w_norm } } = trace;
    const inner = matmul(x, mul(delora_A, delora_w_norm), { transposeB: true });
    return matmul(inner, mul(delora_B, lengthsOf(trace)), { transposeB: true });
  },
};

/** The diagonal of D [r]. */
function lengthsOf(
  { leaves: { delora_A, delora_B, delora_lambda } }: SiteTrace<DeloraConfig>,
): Value {
  const lengths = mul(lengthAlong(delora_A, 1), lengthAlong(delora_B, 0));
  return div(div(delora_lambda, delora_A.shape[0]), lengths);
}

/** Lengths of rows or columns, 1e-4 at least; where they are smaller, no gradient follows them. */
function lengthAlong(x: Value, axis: number): Value {
  return sqrt(max(sum(mul(x, x), { axes: [axis] }), 1e-8));
}

/** The method `DELORA`. */
export const delora: PeftMethod<DeloraConfig> = {
  name: "delora",
  config: schema,
  leaves: {
    site({ config, site: { path, inFeatures, outFeatures } }) {
      const r = patternValue(config.rankPattern, path) ?? config.r;
      const lambda = patternValue(config.lambdaPattern, path) ?? config.deloraLambda;
      return {
        delora_A: {
          shape: [r, inFeatures],
          init: ({ random }) =>
            kaimingUniform(random, { size: r * inFeatures, features: inFeatures }),
        },
        delora_B: {
          shape: [outFeatures, r],
          init: ({ random }) =>
            config.initWeights
              ? new Float32Array(outFeatures * r)
              : kaimingUniform(random, { size: outFeatures * r, features: r }),
        },
        delora_lambda: { shape: [1], init: () => Float32Array.of(lambda) },
        delora_w_norm: {
          shape: [inFeatures],
          kind: "fixed",
          key: "delora_w_norm",
          async init(from) {
            const squares = new Float64Array(inFeatures);
            (await from.weight()).forEach((w, i) => squares[i % inFeatures] += w * w);
            return Float32Array.from(squares, Math.sqrt);
          },
        },
      };
    },
  },
  sites: () => ({ linear: rule }),
};
