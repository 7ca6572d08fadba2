/**
 * VB-LoRA: LoRA from a bank of vectors (Li et al., 2024, arXiv:2405.15179).
 *
 * A linear layer becomes y = W·x + B·A·x. Each row of A [r, in] and each column of B [out, r] is cut
 * into pieces of one length l, and each piece is a mixture of K of the N vectors of a bank that the
 * whole adapter shares: those with the largest logits, weighted by their softmax. Trained are the
 * bank [N, l] and the logits [r, in/l, N] and [out/l, r, N].
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import type { LowRank } from "../model/weight.ts";
import { cast } from "../ops/cast.ts";
import { concat } from "../ops/concat.ts";
import { equal, mul, or, sub } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { reduceMax, sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import { softmax } from "../ops/softmax.ts";
import { stopGradient } from "../ops/stop-gradient.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { once } from "../tensor/computed.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
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
import { VBLORA_TARGETS } from "./default-targets.ts";
import { lowRankRule } from "./low-rank.ts";
import type { LeafRule, PeftMethod, SitePlace, SiteTrace } from "./method.ts";
import type { TorchRandom } from "./torch-random.ts";

/** A VB-LoRA config with every field, as {@link vbLoraConfig} makes it. */
export interface VbLoraConfig
  extends
    PeftConfig,
    Required<Pick<TargetConfig, keyof ReturnType<typeof targetFields> | "fanInFanOut">> {
  /** `"VBLORA"`. */
  readonly peftType: "VBLORA";
  /** Rank of the update. 4 by default. */
  readonly r: number;
  /** Number of vectors in the bank. 256 by default; choose more for larger models. */
  readonly numVectors: number;
  /** Length of a vector, which divides the features of all layers. 256 by default. */
  readonly vectorLength: number;
  /** How many vectors each piece is mixed of. 2 by default. */
  readonly topk: number;
  /**
   * Whether files hold which vectors each piece is mixed of and their weights, and not the logits.
   * They are much smaller and can be used and merged, but not trained further. False by default.
   */
  readonly saveOnlyTopkWeights: boolean;
  /**
   * Probability with which training drops an input feature before the update, from 0 up to, but not
   * including, 1. 0 by default.
   */
  readonly vbloraDropout: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"vblora_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "vblora_only";
  /** The bank starts uniform between this and its negative. 0.02 by default. */
  readonly initVectorBankBound: number;
  /** Standard deviation of the normal numbers that logits start from. 0.1 by default. */
  readonly initLogitsStd: number;
}

const schema: ConfigSchema<VbLoraConfig> = {
  peftType: "VBLORA",
  targets: VBLORA_TARGETS,
  // With all of them there is no choice, and the loss is smooth.
  example: { numVectors: 3, vectorLength: 8, topk: 3 },
  fields: {
    ...commonFields("VBLORA"),
    ...targetFields(),
    r: field.integer(4, 1),
    numVectors: field.integer(256, 1),
    vectorLength: field.integer(256, 1),
    topk: field.integer(2, 1),
    saveOnlyTopkWeights: field.boolean(false),
    vbloraDropout: field.probability(0),
    fanInFanOut: field.boolean(false),
    bias: field.choice("none", ["none", "all", "vblora_only"]),
    initVectorBankBound: field.float(0.02),
    initLogitsStd: field.float(0.1),
  },
  check(config) {
    checkLayersPattern(config);
    const { topk, numVectors } = config;
    if (topk <= numVectors) return;
    throw new ConfigError(
      "CONFIG_TOPK",
      `topk ${topk} is more than numVectors ${numVectors}: there are not as many vectors to mix.`,
    );
  },
};

/**
 * A complete VB-LoRA config (Li et al., 2024, arXiv:2405.15179): a low-rank update whose factors are
 * mixed of the vectors of one bank.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { vbLoraConfig } from "@graft/peft";
 * const config = vbLoraConfig({ numVectors: 60, vectorLength: 64, saveOnlyTopkWeights: true });
 * console.log(config.topk); // 2
 * ```
 */
export function vbLoraConfig(config: Partial<VbLoraConfig> = {}): VbLoraConfig {
  return parseConfig(schema, config);
}

function factors(trace: SiteTrace<VbLoraConfig>): LowRank {
  const { config: { r }, site: { inFeatures, outFeatures } } = trace;
  return {
    left: reshape(transpose(pieces(trace, "B"), [0, 2, 1]), [outFeatures, r]),
    right: reshape(pieces(trace, "A"), [r, inFeatures]),
  };
}

/** The pieces of a factor, [..., l]. */
function pieces({ config, leaves, shared }: SiteTrace<VbLoraConfig>, factor: "A" | "B"): Value {
  const bank = shared.vblora_vector_bank, { topk } = config;
  const name = `vblora_logits_${factor}`, logits = leaves[name];
  if (logits) return matmul(topWeights(logits, topk), bank);
  const vectors = gather(bank, leaves[`${name}_topk_indices`]);
  if (topk === 1) return sum(vectors, { axes: [-2] });
  const first = leaves[`${name}_topk_weights`];
  const weights = concat([first, sub(1, sum(first, { axes: [-1], keepDims: true }))], { axis: -1 });
  return sum(mul(vectors, reshape(weights, [...weights.shape, 1])), { axes: [-2] });
}

/** The softmax of the largest k along the last axis, the first of equals, and 0 for the others. */
function topWeights(logits: Value, k: number): Value {
  const count = logits.shape.at(-1)!;
  const places = iota(logits.graph, [count], { axis: 0 });
  const fromEnd = sub(count, cast(places, "f32"));
  const largest = (x: Value) => equal(x, reduceMax(x, { axes: [-1], keepDims: true }));
  let rest = stopGradient(logits), chosen: Value | undefined;
  for (let i = 0; i < k; i++) {
    const one = largest(select(largest(rest), fromEnd, 0));
    chosen = chosen ? or(chosen, one) : one;
    rest = select(one, LOWEST, rest);
  }
  return softmax(select(chosen!, logits, LOWEST));
}

/** Far below any logit, and still a number. */
const LOWEST = -1e30;

const rule = lowRankRule(factors, ({ vbloraDropout }: VbLoraConfig) => vbloraDropout);

/** The method `VBLORA`. */
export const vbLora: PeftMethod<VbLoraConfig> = {
  name: "vblora",
  config: schema,
  leaves: {
    adapter({ config, sites }) {
      return {
        vblora_vector_bank: {
          shape: [config.numVectors, config.vectorLength],
          key: "base_model.vblora_vector_bank",
          init({ random }) {
            // PEFT draws a bank before each site's logits, and the last one stays.
            const ahead = random.fork(), last = sites.at(-1);
            for (const site of sites) {
              if (site === last) break;
              skipBank(ahead, config);
              for (const factor of FACTORS) {
                drawLogits(ahead, config, tilesOf(factor, config, site));
              }
            }
            const { numVectors, vectorLength, initVectorBankBound: bound } = config;
            return ahead.uniform(numVectors * vectorLength, { low: -bound, high: bound });
          },
        },
      };
    },
    site: siteLeaves,
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};

const FACTORS = ["A", "B"] as const;
type Factor = typeof FACTORS[number];

function skipBank(random: TorchRandom, { numVectors, vectorLength }: VbLoraConfig): void {
  random.skip(numVectors * vectorLength);
}

function drawLogits(
  random: TorchRandom,
  { numVectors, initLogitsStd }: VbLoraConfig,
  tiles: readonly number[],
): Float32Array<ArrayBuffer> {
  return random.normal(sizeOf(tiles) * numVectors, { std: initLogitsStd });
}

/** How many pieces a factor has, in both directions. */
function tilesOf(factor: Factor, { r, vectorLength }: VbLoraConfig, site: Site): readonly number[] {
  return factor === "A"
    ? [r, site.inFeatures / vectorLength]
    : [site.outFeatures / vectorLength, r];
}

function siteLeaves(
  { config, site }: SitePlace<VbLoraConfig>,
): Readonly<Record<string, LeafRule>> {
  checkLengths(config, site);
  const { saveOnlyTopkWeights, inferenceMode } = config;
  const rules = FACTORS.flatMap((factor): [string, LeafRule][] => {
    const tiles = tilesOf(factor, config, site), name = `vblora_logits_${factor}`;
    const logits: LeafRule = {
      shape: [...tiles, config.numVectors],
      ...(saveOnlyTopkWeights && { key: null }),
      init({ random }) {
        if (factor === "A") skipBank(random, config);
        return drawLogits(random, config, tiles);
      },
    };
    return [
      ...(saveOnlyTopkWeights && inferenceMode ? [] : [[name, logits]] as [string, LeafRule][]),
      ...(saveOnlyTopkWeights ? encodedLeaves(name, logits, config) : []),
    ];
  });
  return Object.fromEntries(rules);
}

function checkLengths({ vectorLength }: VbLoraConfig, site: Site): void {
  for (const side of ["inFeatures", "outFeatures"] as const) {
    if (site[side] % vectorLength === 0) continue;
    throw new ConfigError(
      "CONFIG_VECTOR_LENGTH",
      `vectorLength ${vectorLength} must divide the features of each module; ${site.path} has ` +
        `${site.inFeatures} in and ${site.outFeatures} out.`,
      { path: site.path, vectorLength },
    );
  }
}

/**
 * What files hold in the place of logits: which vectors each piece is mixed of, and all of their
 * weights but the last. Of an adapter that is trained they are computed; one that is not has them for
 * leaves.
 */
function encodedLeaves(
  name: string,
  logits: LeafRule,
  { topk, numVectors, inferenceMode }: VbLoraConfig,
): [string, LeafRule][] {
  const tiles = logits.shape.slice(0, -1);
  const shapes = { indices: [...tiles, topk], weights: [...tiles, topk - 1] };
  const encoded = (part: Part, values: () => Promise<Float32Array>): Tensor => ({
    dtype: part === "indices" ? "i32" : "f32",
    shape: shapes[part],
    where: "host",
    data: once(async () => encode(await values(), { topk, numVectors })[part]),
  });
  let drawn: Float32Array | undefined;
  return (["indices", "weights"] as const).map((part): [string, LeafRule] => [
    `${name}_topk_${part}`,
    {
      shape: shapes[part],
      key: `${name}_topk_${part}`,
      ...(part === "indices" && { whole: { stored: indexType(numVectors), below: numVectors } }),
      ...(inferenceMode
        ? {
          kind: part === "indices" || topk === 1 ? "fixed" : "trained",
          async init(from) {
            drawn ??= await logits.init!(from) as Float32Array;
            return encoded(part, () => Promise.resolve(drawn!));
          },
        }
        : {
          kind: "derived",
          saved: (all) => encoded(part, () => toFloat32(all[name])),
        }),
    },
  ]);
}

type Part = "indices" | "weights";

/** The smallest type that PEFT holds places in a bank in. */
function indexType(numVectors: number): "u8" | "i16" | "i32" {
  return numVectors < 2 ** 8 ? "u8" : numVectors < 2 ** 15 ? "i16" : "i32";
}

function encode(
  logits: Float32Array,
  { topk, numVectors }: { readonly topk: number; readonly numVectors: number },
): { readonly indices: Int32Array; readonly weights: Float32Array } {
  const rows = logits.length / numVectors;
  const indices = new Int32Array(rows * topk), weights = new Float32Array(rows * (topk - 1));
  for (let row = 0; row < rows; row++) {
    const own = logits.subarray(row * numVectors, (row + 1) * numVectors);
    const top = [...own.keys()].sort((i, j) => own[j] - own[i]).slice(0, topk);
    const powers = top.map((i) => Math.exp(own[i] - own[top[0]]));
    const total = powers.reduce((a, b) => a + b);
    indices.set(top, row * topk);
    weights.set(powers.slice(0, -1).map((power) => power / total), row * (topk - 1));
  }
  return { indices, weights };
}
