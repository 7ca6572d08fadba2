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
import { z } from "zod";
import type { Site } from "../model/site.ts";
import { mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import {
  checkLayersPattern,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import type { LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";
import { createTorchRandom } from "./torch-random.ts";

/** A VeRA config with every field, as {@link veraConfig} makes it. */
export interface VeraConfig extends
  PeftConfig,
  Required<
    Pick<
      TargetConfig,
      "targetModules" | "modulesToSave" | "fanInFanOut" | "layersToTransform" | "layersPattern"
    >
  > {
  /** `"VERA"`. */
  readonly peftType: "VERA";
  /**
   * Rank: inner dimension of the shared projections. 256 by default; choose it larger than for
   * LoRA, as a site trains only `r` and its output features.
   */
  readonly r: number;
  /** Seed of the random numbers that the projections consist of. 0 by default. */
  readonly projectionPrngKey: number;
  /**
   * Whether the projections are saved (default), or made again from `projectionPrngKey` when the
   * adapter is loaded.
   */
  readonly saveProjection: boolean;
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
  /**
   * Whether the adapter starts by changing nothing (default). With `false`, `vera_lambda_d` is
   * normal random and `vera_lambda_b` is 1, for tests.
   */
  readonly initWeights: boolean;
}

const { targetModules, modulesToSave, layersToTransform, layersPattern } = targetFields();

const schema: ConfigSchema<VeraConfig> = {
  peftType: "VERA",
  targets: { ...ATTENTION_TARGETS, phi: ["q_proj", "v_proj"] },
  isIdentityAtInit: true,
  fields: {
    ...commonFields("VERA"),
    r: field.integer(256, 1),
    targetModules,
    projectionPrngKey: z.int().default(0).describe("a whole number"),
    saveProjection: field.boolean(true),
    veraDropout: field.probability(0),
    dInitial: field.float(0.1),
    fanInFanOut: field.boolean(false),
    bias: field.choice("none", ["none", "all", "vera_only"]),
    modulesToSave,
    initWeights: field.boolean(true),
    layersToTransform,
    layersPattern,
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
  delta(trace) {
    const { a, b } = projectionsAt(trace), { leaves } = trace;
    const left = mul(b, reshape(leaves.vera_lambda_b, [-1, 1]));
    const right = mul(a, reshape(leaves.vera_lambda_d, [-1, 1]));
    return trace.site.kind === "conv1d"
      ? matmul(right, left, { transposeA: true, transposeB: true })
      : matmul(left, right);
  },
  dropout: ({ veraDropout }) => veraDropout,
  apply(trace, x) {
    const { a, b } = projectionsAt(trace), { leaves } = trace;
    const inner = mul(matmul(x, a, { transposeB: true }), leaves.vera_lambda_d);
    return mul(matmul(inner, b, { transposeB: true }), leaves.vera_lambda_b);
  },
};

/** The method `VERA`. */
export const vera: PeftMethod<VeraConfig> = {
  name: "vera",
  prefix: "vera_lambda_",
  config: schema,
  leaves: {
    site({ config: { r, initWeights, dInitial }, site: { outFeatures } }) {
      return {
        vera_lambda_b: {
          shape: [outFeatures],
          init: () => new Float32Array(outFeatures).fill(initWeights ? 0 : 1),
        },
        vera_lambda_d: {
          shape: [r],
          init({ random }) {
            // PEFT draws them also where it then sets them to a constant.
            const drawn = random.normal(r);
            return initWeights ? drawn.fill(dInitial) : drawn;
          },
        },
      };
    },
    adapter: ({ config, sites }) => projections(config, sites),
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};

/**
 * Uniform random numbers from the key's own stream, with the variance that keeps signals as they
 * are before a rectifier (He et al., 2015, arXiv:1502.01852).
 */
function projections(
  { r, projectionPrngKey, saveProjection }: VeraConfig,
  sites: readonly Site[],
): Readonly<Record<string, LeafRule>> {
  const random = createTorchRandom(projectionPrngKey);
  const largest = (size: "inFeatures" | "outFeatures") =>
    Math.max(0, ...sites.map((site) => site[size]));
  const rule = (
    name: string,
    shape: readonly [number, number],
    accepts: LeafRule["accepts"],
  ): LeafRule => ({
    shape,
    kind: "fixed",
    accepts,
    ...(saveProjection
      ? { key: `base_model.${name}` }
      : { key: null, idleKey: `base_model.${name}` }),
    init() {
      const bound = Math.sqrt(3) * (Math.sqrt(2) / Math.sqrt(shape[1]));
      return random.uniform(shape[0] * shape[1], { low: -bound, high: bound });
    },
  });
  const inputs = largest("inFeatures"), outputs = largest("outFeatures");
  // A second adapter's file holds the projections of the first, which may be larger.
  return {
    vera_A: rule("vera_A", [r, inputs], ([m, n]) => m === r && n >= inputs),
    vera_B: rule("vera_B", [outputs, r], ([m, n]) => m >= outputs && n === r),
  };
}

/** What a site uses of the projections: A [r, in] and B [out, r]. */
function projectionsAt(
  { site, shared }: SiteTrace<VeraConfig>,
): { readonly a: Value; readonly b: Value } {
  return {
    a: sliceAxis(shared.vera_A, { axis: 1, start: 0, size: site.inFeatures }),
    b: sliceAxis(shared.vera_B, { axis: 0, start: 0, size: site.outFeatures }),
  };
}
