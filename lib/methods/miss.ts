/**
 * MiSS: matrix shard sharing (Kang and Yin, 2024, arXiv:2409.15371), which PEFT called Bone before.
 *
 * The weight W [out, in] of a linear layer is cut into shards of r columns, and all of them get the same
 * change D [out, r], so that y = W·x + D·(x₁ + … + xₙ) with the shards xᵢ of x. With `"mini"`, rows
 * share their changes too. With `"bat"`, W is cut into blocks of r × r, and the blocks of a row of
 * blocks become W·(I + B) + B, with a B [r, r] for each such row.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { product } from "../model/site-product.ts";
import type { Site } from "../model/site.ts";
import { dense } from "../model/weight.ts";
import { broadcast } from "../ops/broadcast.ts";
import { add } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { pad, sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
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
import { kaimingUniform } from "./lora/lora-init.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { type DeltaRule, scaled } from "./site-rule.ts";

/** A MiSS config with every field, as {@link missConfig} makes it. */
export interface MissConfig extends TargetedConfig {
  /** `"MISS"`. */
  readonly peftType: "MISS";
  /** Columns of a shard, or side of a block, at most the features that go in. 64 by default. */
  readonly r: number;
  /**
   * Probability with which an input feature is dropped before the change in training, from 0 up to,
   * but not including, 1; without effect with `"bat"`. 0 by default.
   */
  readonly missDropout: number;
  /** With `"mini"`: how many rows differ, a divisor of the features that come out. 1 by default. */
  readonly miniR: number;
  /**
   * Which changes there are: those of shards (`true`, the default), `"bat"`, or `"mini"`. With `false`
   * those of shards start as random numbers, for tests; all others start as zero.
   */
  readonly initWeights: boolean | "bat" | "mini";
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"MiSS_only"`, those of
   * the adapted modules.
   */
  readonly bias: "none" | "all" | "MiSS_only";
}

const schema: ConfigSchema<MissConfig> = {
  peftType: "MISS",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  example: { r: 8 },
  fields: {
    ...commonFields("MISS"),
    ...targetFields(),
    r: field.integer(64, 1),
    missDropout: field.probability(0),
    miniR: field.integer(1, 1),
    initWeights: z.union([z.boolean(), z.literal(["bat", "mini"])]).default(true)
      .describe('true, false, "bat" or "mini"'),
    bias: field.choice("none", ["none", "all", "MiSS_only"]),
  },
  formerly: {
    BONE: {
      until: "0.18",
      prefix: "bone_",
      fields: (json) => json.bias === "Bone_only" ? { ...json, bias: "MiSS_only" } : json,
    },
  },
  // As in PEFT, a name of the list of layers may be given for nothing.
  check(config) {
    if (typeof config.targetModules === "string") checkTargets(config);
  },
};

/**
 * A complete MiSS config (Kang and Yin, 2024, arXiv:2409.15371): one change for all shards of a
 * weight.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { missConfig } from "@graft/peft";
 * const config = missConfig({ r: 16, initWeights: "mini", miniR: 8 });
 * console.log(config.missDropout); // 0
 * ```
 */
export function missConfig(config: Partial<MissConfig> = {}): MissConfig {
  return parseConfig(schema, config);
}

/** The fields of a Bone config, as PEFT had it up to 0.18. */
export interface BoneFields
  extends Partial<Omit<MissConfig, "peftType" | "missDropout" | "miniR" | "initWeights" | "bias">> {
  /** `"BONE"`. */
  readonly peftType?: "BONE";
  /** As of {@link MissConfig}. */
  readonly initWeights?: boolean | "bat";
  /** As of {@link MissConfig}, where it is called `"MiSS_only"`. */
  readonly bias?: "none" | "all" | "Bone_only";
}

/**
 * A Bone config as the MiSS config that says the same: MiSS is Bone under a new name.
 *
 * @param config The fields to set; the others take PEFT's defaults, a rank of 64 among them.
 * @returns A frozen config of MiSS.
 * @throws {ConfigError} as {@link missConfig} does.
 *
 * @example
 * ```ts
 * import { boneConfig } from "@graft/peft";
 * console.log(boneConfig({ r: 8, initWeights: "bat" }).peftType); // MISS
 * ```
 */
export function boneConfig({ peftType: _, ...config }: BoneFields = {}): MissConfig {
  return parseConfig(schema, schema.formerly!.BONE.fields!(config));
}

type Trace = SiteTrace<MissConfig>;

const shards: DeltaRule<MissConfig> = {
  delta({ leaves: { miss_block }, site: { inFeatures, outFeatures } }) {
    return repeated(transpose(repeated(miss_block, outFeatures)), inFeatures);
  },
  dropout: ({ missDropout }) => missDropout,
  apply({ leaves: { miss_block }, site: { inFeatures, outFeatures } }, x) {
    const [r] = miss_block.shape, rest = x.shape.slice(0, -1), count = Math.ceil(inFeatures / r);
    const whole = pad(x, {
      low: x.shape.map(() => 0),
      high: [...rest.map(() => 0), count * r - inFeatures],
    });
    const folded = sum(reshape(whole, [...rest, count, r]), { axes: [-2] });
    return repeated(matmul(folded, miss_block), outFeatures);
  },
};

/** The last axis over and over again, up to this size. */
function repeated(x: Value, size: number): Value {
  const rest = x.shape.slice(0, -1), own = x.shape.at(-1)!, count = Math.ceil(size / own);
  const copies = broadcast(reshape(x, [...rest, 1, own]), [...rest, count, own]);
  return sliceAxis(reshape(copies, [...rest, count * own]), { axis: -1, start: 0, size });
}

/** Changes depend on the weight, so that those of a second adapter depend on the first one's. */
const blocks: DeltaRule<MissConfig> = {
  delta: (trace) => blockChange(trace, dense(trace.pass.weight(`${trace.site.path}.weight`))),
  forward(trace, { x, result, weight, changed }) {
    const change = scaled(blockChange(trace, weight()), trace.multiplier);
    return changed?.(change) ?? add(result, product(trace.site, x, { plain: change }));
  },
  weight(trace, values) {
    const change = scaled(blockChange(trace, values.weight), trace.multiplier);
    return { ...values, weight: add(values.weight, change) };
  },
};

/** W·B + B of each block. */
function blockChange({ leaves: { miss_block: b } }: Trace, weight: Value): Value {
  const [rows, r] = b.shape, [out, inputs] = weight.shape, columns = inputs / r;
  const apart = transpose(reshape(weight, [rows, r, columns, r]), [0, 2, 1, 3]);
  const product = reshape(matmul(reshape(apart, [rows, -1, r]), b), apart.shape);
  const change = add(product, reshape(b, [rows, 1, r, r]));
  return reshape(transpose(change, [0, 2, 1, 3]), [out, inputs]);
}

/** The method `MISS`. */
export const miss: PeftMethod<MissConfig> = {
  name: "miss",
  config: schema,
  leaves: {
    site({ config, site }) {
      const shape = shapeAt(config, site), size = sizeOf(shape);
      return {
        miss_block: {
          shape,
          init: ({ random }) =>
            config.initWeights
              ? new Float32Array(size)
              : kaimingUniform(random, { size, features: site.outFeatures }),
        },
      };
    },
  },
  sites: ({ initWeights }) => ({ linear: initWeights === "bat" ? blocks : shards }),
};

function shapeAt(
  { r, miniR, initWeights }: MissConfig,
  { path, inFeatures, outFeatures }: Site,
): readonly number[] {
  const refuse = (what: string) =>
    new ConfigError(
      "CONFIG_MISS",
      `${what}, and ${path} has ${inFeatures} features that go in and ${outFeatures} that come out. Choose another one, or leave it out of targetModules.`,
      { path, r, miniR },
    );
  if (r > inFeatures) throw refuse(`r (${r}) must be at most the features that go in`);
  if (initWeights === "bat") {
    if (inFeatures % r === 0 && outFeatures % r === 0) return [outFeatures / r, r, r];
    throw refuse(`With initWeights "bat", weights are cut into blocks of ${r} by ${r} (r)`);
  }
  if (initWeights !== "mini") return [r, outFeatures];
  if (outFeatures % miniR === 0) return [r, miniR];
  throw refuse(`miniR (${miniR}) must divide the features that come out`);
}
