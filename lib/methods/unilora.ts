/**
 * Uni-LoRA: LoRA whose parameters are all taken from one vector (Li et al., 2025, arXiv:2506.00799).
 *
 * A linear layer becomes y = W·x + B·A·x. Each element of A [r, in] and B [out, r] is one of the
 * trained vector θ [d], over the root of how often that one is used in the whole adapter. Which one
 * it is was drawn at random and is fixed: all of θ are used equally often, give or take one.
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import type { LowRank } from "../model/weight.ts";
import { mul } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { reshape } from "../ops/reshape.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { tensor } from "../tensor/tensor.ts";
import { ConfigError } from "../errors.ts";
import {
  checkTargets,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { lowRankRule } from "./low-rank.ts";
import type { LeafRule, PeftMethod, SitePlace, SiteTrace } from "./method.ts";
import { createNumpyRandom } from "./numpy-random.ts";

/** A Uni-LoRA config with every field, as {@link uniLoraConfig} makes it. */
export interface UniLoraConfig extends
  PeftConfig,
  Required<
    Pick<
      TargetConfig,
      "targetModules" | "modulesToSave" | "fanInFanOut" | "layersToTransform" | "layersPattern"
    >
  > {
  /** `"UNILORA"`. */
  readonly peftType: "UNILORA";
  /** Rank of the update. 4 by default. */
  readonly r: number;
  /** Seed of the draws of which elements of the vector are taken, as numpy draws. 42 by default. */
  readonly projSeed: number;
  /** Length of the trained vector. 256 by default. */
  readonly thetaDLength: number;
  /**
   * Probability with which training drops an input feature before the update, from 0 up to, but not
   * including, 1. 0 by default.
   */
  readonly uniloraDropout: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"unilora_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "unilora_only";
  /** The vector starts uniform between this and its negative. 0.02 by default. */
  readonly initThetaDBound: number;
  /** Whether it does (default), or starts from normal numbers with the deviation 1. */
  readonly initWeights: boolean;
  /**
   * Whether files hold what was drawn, too. By default it is drawn again from `projSeed` when the
   * adapter is loaded.
   */
  readonly saveIndices: boolean;
}

const { excludeModules: _, ...targeting } = targetFields();

const schema: ConfigSchema<UniLoraConfig> = {
  peftType: "UNILORA",
  targets: ATTENTION_TARGETS,
  fields: {
    ...commonFields("UNILORA"),
    ...targeting,
    r: field.integer(4, 1),
    projSeed: field.integer(42, 0),
    thetaDLength: field.integer(256, 1),
    uniloraDropout: field.probability(0),
    fanInFanOut: field.boolean(false),
    bias: field.choice("none", ["none", "all", "unilora_only"]),
    initThetaDBound: field.float(0.02),
    initWeights: field.boolean(true),
    saveIndices: field.boolean(false),
  },
  check(config) {
    // Beside a list of names, a pattern for layers without their numbers passes, as in PEFT.
    if (typeof config.targetModules === "string") checkTargets(config);
    const { initThetaDBound: bound } = config;
    if (bound > 0) return;
    throw new ConfigError("CONFIG_BOUND", `initThetaDBound must be above 0; found ${bound}.`);
  },
};

/**
 * A complete Uni-LoRA config (Li et al., 2025, arXiv:2506.00799): one vector that the factors of all
 * layers are taken from.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { uniLoraConfig } from "@graft/peft";
 * const config = uniLoraConfig({ thetaDLength: 1024, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.projSeed); // 42
 * ```
 */
export function uniLoraConfig(config: Partial<UniLoraConfig> = {}): UniLoraConfig {
  return parseConfig(schema, config);
}

function factors({ leaves, shared }: SiteTrace<UniLoraConfig>): LowRank {
  const theta = reshape(shared.unilora_theta_d, [-1, 1]);
  const [left, right] = ["B", "A"].map((factor) => {
    const indices = leaves[`unilora_indices_${factor}`];
    const taken = reshape(gather(theta, indices), indices.shape);
    return mul(taken, leaves[`unilora_scales_${factor}`]);
  });
  return { left, right };
}

const rule = lowRankRule(factors, ({ uniloraDropout }: UniLoraConfig) => uniloraDropout);

/** The method `UNILORA`. */
export const uniLora: PeftMethod<UniLoraConfig> = {
  name: "unilora",
  config: schema,
  leaves: {
    adapter({ config: { thetaDLength, initWeights, initThetaDBound: bound } }) {
      return {
        unilora_theta_d: {
          shape: [thetaDLength],
          key: "base_model.unilora_theta_d",
          init: ({ random }) =>
            initWeights
              ? random.uniform(thetaDLength, { low: -bound, high: bound })
              : random.normal(thetaDLength),
        },
      };
    },
    site: (place) => ({
      ...factorLeaves(place, "A", [place.config.r, place.site.inFeatures]),
      ...factorLeaves(place, "B", [place.site.outFeatures, place.config.r]),
    }),
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};

/** What a factor is taken from θ with: places in it [rows, columns], and a factor for each. */
function factorLeaves(
  { config, site, sites }: SitePlace<UniLoraConfig>,
  factor: "A" | "B",
  shape: readonly [number, number],
): Readonly<Record<string, LeafRule>> {
  const size = sizeOf(shape), below = config.thetaDLength;
  const own = () => {
    const { indices, scales } = assignment(config, sites);
    const before = sites.slice(0, sites.indexOf(site));
    const start = before.reduce((n, other) => n + used(config, other), 0);
    const at = start + (factor === "A" ? 0 : config.r * site.inFeatures);
    const taken = indices.subarray(at, at + size);
    return { taken, scales: Float32Array.from(taken, (index) => scales[index]) };
  };
  const leaf = (name: string, rule: Pick<LeafRule, "whole" | "init">) => ({
    [name]: {
      ...rule,
      shape,
      kind: "fixed" as const,
      key: config.saveIndices ? name : null,
      idleKeys: /\.unilora_(indices|scales)_[AB]$/,
    },
  });
  return {
    ...leaf(`unilora_indices_${factor}`, {
      whole: { stored: "i64", below },
      init({ random }) {
        // PEFT draws other places first.
        random.skip(size);
        return tensor(own().taken, { shape });
      },
    }),
    ...leaf(`unilora_scales_${factor}`, { init: () => own().scales }),
  };
}

/** How many elements a site takes. */
function used({ r }: UniLoraConfig, { inFeatures, outFeatures }: Site): number {
  return r * (inFeatures + outFeatures);
}

interface Assignment {
  /** The place in θ of each element of all sites, one site after the other, A before B. */
  readonly indices: Int32Array<ArrayBuffer>;
  /** One over the root of how often each element of θ is taken. */
  readonly scales: Float32Array<ArrayBuffer>;
}

// It is of all sites of an adapter that is being made, each of which asks for it.
const assigned = new WeakMap<readonly Site[], Assignment>();

function assignment(config: UniLoraConfig, sites: readonly Site[]): Assignment {
  const known = assigned.get(sites);
  if (known) return known;
  const { thetaDLength: length, projSeed } = config;
  const count = sites.reduce((n, site) => n + used(config, site), 0);
  const random = createNumpyRandom(projSeed), each = Math.floor(count / length);
  const all = Int32Array.from({ length: count }, (_, i) => Math.floor(i / each));
  const rest = count % length;
  if (rest) all.set(random.choice(length, rest), count - rest);
  const indices = random.shuffled(all);
  const counts = new Int32Array(length);
  for (const index of indices) counts[index]++;
  // The root is rounded before it divides.
  const scales = Float32Array.from(counts, (n) => n ? 1 / Math.fround(Math.sqrt(n)) : 0);
  const made = { indices, scales };
  assigned.set(sites, made);
  return made;
}
