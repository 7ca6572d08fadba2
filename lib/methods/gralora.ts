/**
 * GraLoRA: granular low-rank adaptation (Jung et al., 2025, arXiv:2505.20355).
 *
 * The weight of a linear layer is cut into k × k blocks, and each gets a LoRA of its own, of rank r / k:
 * of column block n and row block j it is B[j, n]·A[n, j]. There are as many parameters as in one LoRA
 * of rank r, and the rank of the whole change can be k times as large. Beside it there can be a LoRA for
 * the whole weight, of rank `hybridR`. All is scaled by alpha / (r + hybridR).
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import { isOutIn, type Site } from "../model/site.ts";
import { add, mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import {
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { kaimingUniform } from "./lora/lora-init.ts";
import type { Leaf, LeafRule, PeftMethod } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";
import type { TorchRandom } from "./torch-random.ts";

/** A GraLoRA config with every field, as {@link graloraConfig} makes it. */
export interface GraloraConfig extends
  PeftConfig,
  Required<
    Pick<
      TargetConfig,
      "targetModules" | "modulesToSave" | "fanInFanOut" | "layersToTransform" | "layersPattern"
    >
  > {
  /** `"GRALORA"`. */
  readonly peftType: "GRALORA";
  /** Rank: that of all blocks of a row together, a multiple of `graloraK`. 32 by default. */
  readonly r: number;
  /** Rank of the LoRA for the whole weight; 0 (default) for none. */
  readonly hybridR: number;
  /** What the change is scaled by, over the sum of both ranks. 64 by default. */
  readonly alpha: number;
  /**
   * Probability with which an input feature is dropped before the blocks in training, from 0 up to,
   * but not including, 1. 0 by default.
   */
  readonly graloraDropout: number;
  /**
   * Number k of blocks in a row and in a column of the weight, a divisor of the features on both
   * sides. 2 by default.
   */
  readonly graloraK: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"gralora_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "gralora_only";
  /**
   * Whether the factors on the left start as zero (default), so that the adapter changes nothing at
   * first; they are random otherwise.
   */
  readonly initWeights: boolean;
}

const { targetModules, modulesToSave, layersToTransform, layersPattern } = targetFields();

const schema: ConfigSchema<GraloraConfig> = {
  peftType: "GRALORA",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  example: { r: 8, alpha: 8 },
  fields: {
    ...commonFields("GRALORA"),
    targetModules,
    modulesToSave,
    layersToTransform,
    layersPattern,
    r: field.integer(32, 1),
    hybridR: field.integer(0, 0),
    alpha: field.number(64),
    graloraDropout: field.probability(0),
    graloraK: field.integer(2, 1),
    fanInFanOut: field.boolean(false),
    bias: field.choice("none", ["none", "all", "gralora_only"]),
    initWeights: field.boolean(true),
  },
  // PEFT does not look at the layers that go with an expression, or without their numbers.
  check({ r, graloraK }) {
    if (r % graloraK === 0) return;
    throw new ConfigError(
      "CONFIG_GRALORA",
      `r should be divisible by graloraK, but got ${r} and ${graloraK}.`,
      { r, graloraK },
    );
  },
};

/**
 * A complete GraLoRA config (Jung et al., 2025, arXiv:2505.20355): a small LoRA for each block of a
 * weight, and, with `hybridR`, one for all of it.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields, and for a rank that `graloraK` does not
 * divide.
 *
 * @example
 * ```ts
 * import { graloraConfig } from "@graft/peft";
 * const config = graloraConfig({ r: 16, graloraK: 4, hybridR: 4, targetModules: ["q_proj"] });
 * console.log(config.alpha); // 64
 * ```
 */
export function graloraConfig(config: Partial<GraloraConfig> = {}): GraloraConfig {
  return parseConfig(schema, config);
}

const rule: DeltaRule<GraloraConfig> = {
  delta({ leaves: { gralora_A, gralora_B, ...whole }, config, site }) {
    const [k, rows, r] = gralora_A.shape, columns = gralora_B.shape[2], share = r / k;
    // Of each pair of blocks, n and j, the factors stand side by side.
    const a = transpose(reshape(gralora_A, [k, rows, k, share]), [0, 2, 1, 3]);
    const b = transpose(reshape(gralora_B, [k, k, share, columns]), [1, 0, 2, 3]);
    const pairs = matmul(reshape(a, [-1, rows, share]), reshape(b, [-1, share, columns]));
    const blocks = transpose(reshape(pairs, [k, k, rows, columns]), [0, 2, 1, 3]);
    const granular = reshape(blocks, [k * rows, k * columns]);
    const { gralora_A_general: right, gralora_B_general: left } = whole;
    const change = right
      ? add(granular, matmul(right, left, { transposeA: true, transposeB: true }))
      : granular;
    return mul(isOutIn(site) ? transpose(change) : change, scaleOf(config));
  },
  dropout: ({ graloraDropout }) => graloraDropout,
  apply({ leaves: { gralora_A, gralora_B, ...whole }, config, site }, x) {
    const [k, rows, r] = gralora_A.shape;
    const inner = matmul(transpose(reshape(x, [-1, k, rows]), [1, 0, 2]), gralora_A);
    // Each block of columns has a share of the rank for each block of rows.
    const shares = transpose(reshape(inner, [k, -1, k, r / k]), [2, 1, 0, 3]);
    const y = transpose(matmul(reshape(shares, [k, -1, r]), gralora_B), [1, 0, 2]);
    const granular = reshape(y, [...x.shape.slice(0, -1), site.outFeatures]);
    const { gralora_A_general: right, gralora_B_general: left } = whole;
    const change = right
      ? add(granular, matmul(matmul(x, right, { transposeB: true }), left, { transposeB: true }))
      : granular;
    return mul(change, scaleOf(config));
  },
};

function scaleOf({ alpha, r, hybridR }: GraloraConfig): number {
  return alpha / (r + hybridR);
}

/** The method `GRALORA`. */
export const gralora: PeftMethod<GraloraConfig> = {
  name: "gralora",
  config: schema,
  leaves: {
    site({ config, site }): Readonly<Record<string, LeafRule>> {
      checkBlocks(config, site);
      const { r, graloraK: k, hybridR } = config, { inFeatures, outFeatures } = site;
      let made: Readonly<Record<string, Leaf>> | undefined;
      const leaf = (name: string, shape: readonly number[], key = name): [string, LeafRule] => [
        name,
        { shape, key, init: ({ random }) => (made ??= draw(config, site, random))[name] },
      ];
      return Object.fromEntries([
        leaf("gralora_A", [k, inFeatures / k, r]),
        leaf("gralora_B", [k, r, outFeatures / k]),
        ...(hybridR
          ? [
            leaf("gralora_A_general", [hybridR, inFeatures], "gralora_A_general.weight"),
            leaf("gralora_B_general", [outFeatures, hybridR], "gralora_B_general.weight"),
          ]
          : []),
      ]);
    },
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};

function checkBlocks({ graloraK: k }: GraloraConfig, site: Site): void {
  const { path, inFeatures, outFeatures } = site;
  if (inFeatures % k === 0 && outFeatures % k === 0) return;
  throw new ConfigError(
    "CONFIG_GRALORA",
    `${path} cannot be cut into graloraK × graloraK (${k} × ${k}) blocks: ${inFeatures} features go in and ${outFeatures} come out. ` +
      "Choose a divisor of both, or leave it out of targetModules.",
    { path, graloraK: k },
  );
}

/** Takes the numbers that PEFT draws for a site: block by block, then for the whole, twice. */
function draw(
  { r, graloraK: k, hybridR, initWeights }: GraloraConfig,
  { inFeatures, outFeatures }: Site,
  random: TorchRandom,
): Readonly<Record<string, Leaf>> {
  const rows = inFeatures / k, columns = outFeatures / k;
  const left = (rank: number, outputs: number) =>
    initWeights
      ? new Float32Array(outputs * rank)
      : kaimingUniform(random, { size: outputs * rank, features: rank });
  const gralora_A = new Float32Array(inFeatures * r), gralora_B = new Float32Array(outFeatures * r);
  for (let n = 0; n < k; n++) {
    const a = kaimingUniform(random, { size: r * rows, features: rows }), b = left(r, columns);
    a.forEach((x, i) => gralora_A[(n * rows + i % rows) * r + Math.floor(i / rows)] = x);
    b.forEach((x, i) => gralora_B[(n * r + i % r) * columns + Math.floor(i / r)] = x);
  }
  if (hybridR === 0) return { gralora_A, gralora_B };
  random.skip(hybridR * (inFeatures + outFeatures)); // as linear layers, before they are set
  const size = hybridR * inFeatures;
  return {
    gralora_A,
    gralora_B,
    gralora_A_general: kaimingUniform(random, { size, features: inFeatures }),
    gralora_B_general: left(hybridR, outFeatures),
  };
}
