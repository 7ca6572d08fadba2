/**
 * TinyLoRA: as few as one trained number (Learning to Reason in 13 Parameters, 2026, arXiv:2602.04118).
 *
 * A layer becomes y = W·x + B·R·A·x with B [out, r] and A [r, in] the leading singular vectors of W,
 * each times the root of its value, and R = Σᵢ vᵢ·Pᵢ. The P [u, r, r] are random and fixed; trained is
 * v [u], which layers can share.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import type { LowRank } from "../model/weight.ts";
import { add } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { computedTensor } from "../tensor/computed.ts";
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
import { flatMatrix, leadingSvd, scaledRows, transposed } from "./linalg.ts";
import { lowRankRule } from "./low-rank.ts";
import type { InitSource, LeafRule, PeftMethod, SitePlace, SiteTrace } from "./method.ts";
import { type DeltaRule, scaled } from "./site-rule.ts";
import { createTorchRandom } from "./torch-random.ts";

/** A TinyLoRA config with every field, as {@link tinyLoraConfig} makes it. */
export interface TinyLoraConfig extends
  PeftConfig,
  Required<
    Pick<
      TargetConfig,
      "targetModules" | "modulesToSave" | "fanInFanOut" | "layersToTransform" | "layersPattern"
    >
  > {
  /** `"TINYLORA"`. */
  readonly peftType: "TINYLORA";
  /** How many singular vectors count; all of a layer that has fewer. 2 by default. */
  readonly r: number;
  /** Length of a trained vector. 64 by default. */
  readonly u: number;
  /**
   * How much layers share: from 0 (default), where each has a vector of its own, to 1, where all have
   * one. Layers that share one follow each other.
   */
  readonly weightTying: number;
  /** Seed of the random numbers P; each layer adds its number among the adapted ones. 42 by default. */
  readonly projectionSeed: number;
  /**
   * Whether P is saved (default), or made again from `projectionSeed` when the adapter is loaded.
   */
  readonly saveProjection: boolean;
  /** Vectors with `initWeights: "uniform"` start between this and its negative. 0.02 by default. */
  readonly initVBound: number;
  /**
   * Probability with which training drops an input feature before the update, or of an embedding a
   * component of its row, from 0 up to, but not including, 1. 0 by default.
   */
  readonly tinyloraDropout: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"tinylora_only"`,
   * those of the adapted modules.
   */
  readonly bias: "none" | "all" | "tinylora_only";
  /**
   * Whether vectors start at zero, so that the adapter changes nothing (default), or random
   * (`"uniform"`). `false` is zero as well; PEFT leaves open what it is.
   */
  readonly initWeights: boolean | "uniform";
}

const { excludeModules: _, ...targeting } = targetFields();

const schema: ConfigSchema<TinyLoraConfig> = {
  peftType: "TINYLORA",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("TINYLORA"),
    ...targeting,
    r: field.integer(2, 1),
    u: field.integer(64, 1),
    weightTying: field.float(0),
    projectionSeed: z.int().default(42).describe("a whole number"),
    saveProjection: field.boolean(true),
    initVBound: field.float(0.02),
    tinyloraDropout: field.probability(0),
    fanInFanOut: field.boolean(false),
    bias: field.choice("none", ["none", "all", "tinylora_only"]),
    initWeights: z.union([z.boolean(), z.literal("uniform")]).default(true)
      .describe('true, false or "uniform"'),
  },
  check(config) {
    checkLayersPattern(config);
    const { weightTying } = config;
    if (weightTying >= 0 && weightTying <= 1) return;
    throw new ConfigError(
      "CONFIG_WEIGHT_TYING",
      `weightTying must be between 0 (no sharing) and 1 (one vector for all); found ${weightTying}.`,
    );
  },
};

/**
 * A complete TinyLoRA config (Learning to Reason in 13 Parameters, 2026, arXiv:2602.04118): a few numbers that say how the leading
 * directions of a weight are mixed.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { tinyLoraConfig } from "@graft/peft";
 * const config = tinyLoraConfig({ u: 13, weightTying: 1, targetModules: "all-linear" });
 * console.log(config.r); // 2
 * ```
 */
export function tinyLoraConfig(config: Partial<TinyLoraConfig> = {}): TinyLoraConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<TinyLoraConfig>;

function factors({ config: { u }, leaves }: Trace): LowRank {
  const { tinylora_v: v, tinylora_P: p } = leaves, [, r] = p.shape;
  const mixed = reshape(matmul(reshape(v, [1, u]), reshape(p, [u, -1])), [r, r]);
  return { left: matmul(leaves.tinylora_B, mixed), right: leaves.tinylora_A };
}

const linear = lowRankRule(factors, ({ tinyloraDropout }: TinyLoraConfig) => tinyloraDropout);

const embedding: DeltaRule<TinyLoraConfig> = {
  delta: linear.delta,
  // Training drops components of rows, as there are no input features.
  forward(trace, { x, result }) {
    const { pass, config, leaves, multiplier } = trace, { left, right } = factors(trace);
    if (!pass.training || config.tinyloraDropout === 0) {
      return add(result, scaled(matmul(gather(left, x), right), multiplier));
    }
    const rows = pass.dropout(gather(leaves.tinylora_B, x), config.tinyloraDropout);
    return add(result, scaled(matmul(rows, right), multiplier));
  },
};

/** The method `TINYLORA`. */
export const tinyLora: PeftMethod<TinyLoraConfig> = {
  name: "tinylora",
  config: schema,
  leaves: {
    adapter({ config, sites }) {
      const { u, initWeights, initVBound: bound } = config;
      const count = Math.max(0, ...sites.map((site) => groupOf(config, { site, sites }) + 1));
      const rule = (group: number): LeafRule => ({
        shape: [u],
        key: `base_model.tinylora_v.${group}`,
        init: ({ random }) =>
          initWeights === "uniform"
            ? random.uniform(u, { low: -bound, high: bound })
            : new Float32Array(u),
      });
      return Object.fromEntries(
        Array.from({ length: count }, (_, i) => [`tinylora_v.${i}`, rule(i)]),
      );
    },
    site(place) {
      const { config, site, sites } = place, { u, saveProjection, projectionSeed } = config;
      const { inFeatures, outFeatures } = site, r = rankOf(place);
      let made: ReturnType<typeof decompose> | undefined;
      const factor = (of: "a" | "b", shape: readonly [number, number]): LeafRule => ({
        shape,
        kind: "fixed",
        key: `tinylora_${of.toUpperCase()}`,
        // Files hold them, so that nothing is decomposed where P alone is made again.
        init: (from) =>
          computedTensor(shape, async () => (await (made ??= decompose(place, from)))[of]),
      });
      return {
        tinylora_v: { shape: [u], shares: `tinylora_v.${groupOf(config, { site, sites })}` },
        tinylora_A: factor("a", [r, site.kind === "embedding" ? outFeatures : inFeatures]),
        tinylora_B: factor("b", [site.kind === "embedding" ? inFeatures : outFeatures, r]),
        tinylora_P: {
          shape: [u, r, r],
          kind: "fixed",
          key: saveProjection ? "tinylora_P" : null,
          idleKeys: /\.tinylora_P$/,
          init: () =>
            createTorchRandom(projectionSeed + sites.indexOf(site))
              .normal(u * r * r, { std: 1 / Math.sqrt(r) }),
        },
      };
    },
  },
  sites: () => ({ linear, conv1d: linear, embedding }),
};

function rankOf({ config: { r }, site }: SitePlace<TinyLoraConfig>): number {
  return Math.min(r, site.inFeatures, site.outFeatures);
}

/** Which of the trained vectors is a site's. */
function groupOf(
  { weightTying }: TinyLoraConfig,
  { site, sites }: { readonly site: Site; readonly sites: readonly Site[] },
): number {
  const groups = Math.max(1, roundHalfEven(sites.length * (1 - weightTying)));
  const size = Math.max(1, Math.floor(sites.length / groups));
  return Math.min(Math.floor(sites.indexOf(site) / size), groups - 1);
}

/** As Python rounds: to the even one of two that are as near. */
function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + below % 2 : Math.round(x);
}

/** The leading part of a weight as A and B, up to signs, which files keep. */
async function decompose(
  place: SitePlace<TinyLoraConfig>,
  { weight }: InitSource,
): Promise<{ readonly a: Float32Array; readonly b: Float32Array }> {
  const { inFeatures, outFeatures, kind } = place.site;
  const [rows, columns] = kind === "embedding"
    ? [inFeatures, outFeatures]
    : [outFeatures, inFeatures];
  const { u, s, v } = leadingSvd(flatMatrix(await weight(), { rows, columns }), rankOf(place));
  const roots = s.map(Math.sqrt);
  return {
    a: Float32Array.from(scaledRows(v, roots).data),
    b: Float32Array.from(transposed(scaledRows(u, roots)).data),
  };
}
