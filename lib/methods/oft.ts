/**
 * OFT: orthogonal fine-tuning (Qiu et al., 2023, arXiv:2306.07280; in the form that rotates inputs,
 * Qiu et al., 2025, arXiv:2506.19847).
 *
 * What goes into a layer is rotated block by block: y = W·(x·R) + b, with R block-diagonal. Each block
 * comes from a skew-symmetric matrix Q by the Cayley transform, exactly or as a Neumann series. Rows of
 * an embedding are rotated after the look-up.
 *
 * @module
 */
import { ConfigError, UnsupportedError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import { add, div, min, mul, sqrt, sub } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { stopGradient } from "../ops/stop-gradient.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { cayley, cayleyNeumann, skewSymmetric } from "./cayley.ts";
import {
  checkLayersPattern,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { type ChangeRule, checkConvolution } from "./site-rule.ts";

/** An OFT config with every field, as {@link oftConfig} makes it. */
export interface OftConfig extends TargetConfig {
  /** `"OFT"`. */
  readonly peftType: "OFT";
  /** Number of blocks of each layer, where `oftBlockSize` is 0. */
  readonly r: number;
  /**
   * Side of a block, where `r` is 0; 32 by default. One that does not divide a layer's features
   * is replaced by the nearest that does.
   */
  readonly oftBlockSize: number;
  /** Has no effect, as in PEFT. */
  readonly moduleDropout: number;
  /** Corrected by what the modules are, so it need not be set. */
  readonly fanInFanOut: boolean;
  /** Which biases of the base are trained: none, all, or those of the adapted modules. */
  readonly bias: "none" | "all" | "oft_only";
  /** Whether rotations begin as none; as random ones otherwise. */
  readonly initWeights: boolean;
  /** Keeps rotations small: of each block at most `eps` (constrained OFT). */
  readonly coft: boolean;
  /** How far rotations may go with `coft`; 6e-5 by default. */
  readonly eps: number;
  /** Whether all blocks of a layer are one rotation. */
  readonly blockShare: boolean;
  /**
   * Whether the rotation is a Neumann series instead of the exact Cayley transform; true by default.
   * The two turn in opposite directions for the same weights, as PEFT's do.
   */
  readonly useCayleyNeumann: boolean;
  /** Terms of the series; 5 by default. */
  readonly numCayleyNeumannTerms: number;
}

const schema: ConfigSchema<OftConfig> = {
  peftType: "OFT",
  targets: ATTENTION_TARGETS,
  mixes: true,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("OFT"),
    ...targetFields(),
    r: field.integer(0, 0),
    oftBlockSize: field.integer(32, 0),
    moduleDropout: field.float(0),
    fanInFanOut: field.boolean(false),
    bias: field.choice("none", ["none", "all", "oft_only"]),
    initWeights: field.boolean(true),
    coft: field.boolean(false),
    eps: field.float(6e-5),
    blockShare: field.boolean(false),
    useCayleyNeumann: field.boolean(true),
    numCayleyNeumannTerms: field.integer(5, 0),
  },
  check(config) {
    checkLayersPattern(config);
    const { r, oftBlockSize } = config;
    if ((r === 0) !== (oftBlockSize === 0)) return;
    throw new ConfigError(
      "CONFIG_OFT_BLOCKS",
      r === 0
        ? "Either r or oftBlockSize must be non-zero: one of them says how large blocks are."
        : `You can only specify either r (${r}) or oftBlockSize (${oftBlockSize}), but not both simultaneously, ` +
          "because their product is the number of features of a layer. Set the other one to 0.",
      { r, oftBlockSize },
    );
  },
};

/**
 * A complete OFT config (Qiu et al., 2023, arXiv:2306.07280).
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { oftConfig } from "@graft/peft";
 * console.log(oftConfig({ oftBlockSize: 16 }).useCayleyNeumann); // true
 * ```
 */
export function oftConfig(config: Partial<OftConfig> = {}): OftConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<OftConfig>;

const linear: ChangeRule<OftConfig> = {
  input: (trace, x) => rotated(x, rotation(trace)),
  // y = (x·R)·Wᵀ, so that the rows of W turn back.
  weight: (trace, values) => ({
    ...values,
    weight: rotated(values.weight, transpose(rotation(trace))),
  }),
};

/** Each place has its channels rotated: see {@link checkConv}. */
const conv: ChangeRule<OftConfig> = {
  input: (trace, x) =>
    transpose(rotated(transpose(x, [0, 2, 3, 1]), rotation(trace)), [0, 3, 1, 2]),
  weight(trace, values) {
    const { weight } = values, rows = reshape(weight, [trace.site.outFeatures, -1]);
    const turned = rotated(rows, transpose(rotation(trace)));
    return { ...values, weight: reshape(turned, weight.shape) };
  },
};

const embedding: ChangeRule<OftConfig> = {
  output: (trace, y) => rotated(y, rotation(trace)),
  weight: (trace, values) => ({ ...values, weight: rotated(values.weight, rotation(trace)) }),
};

/** The method `OFT`. */
export const oft: PeftMethod<OftConfig> = {
  name: "oft",
  config: schema,
  leaves: {
    site({ config, site }) {
      checkConv(site);
      const { blocks, side } = blocksOf(config, site);
      const shape = [config.blockShare ? 1 : blocks, side * (side - 1) / 2];
      const leaf = leafName(site);
      return {
        [leaf]: {
          shape,
          key: `${leaf}.weight`,
          init: ({ random }) =>
            config.initWeights
              ? new Float32Array(shape[0] * shape[1])
              : random.normal(shape[0] * shape[1], { std: 0.1 }),
        },
      };
    },
  },
  sites: () => ({ linear, conv, embedding }),
  training({ config, sites, nameOf }) {
    if (!config.coft) return undefined;
    // PEFT's forward pass writes the projection back, so that it is what a step starts from.
    return {
      constrain: ({ leaves }) =>
        new Map(sites.map((site) => {
          const name = nameOf(leafName(site), site);
          return [name, projected(config, leaves.get(name)!)];
        })),
    };
  },
};

function leafName({ kind }: Site): string {
  return kind === "embedding" ? "oft_embedding_R" : "oft_R";
}

/**
 * Of larger kernels, PEFT rotates the patches and puts their numbers back in another order, so that
 * an adapter that is to change nothing does, and its merged weight is that of another model.
 */
function checkConv(site: Site): void {
  checkConvolution("OFT", site, { ranks: [2] });
  if (!site.conv?.kernel.some((k) => k > 1)) return;
  throw new UnsupportedError(
    "TARGET_CONVOLUTION",
    `OFT adapts convolutions with a kernel of 1×1, and that of ${site.path} is ${
      site.conv.kernel.join("×")
    }. Leave it out of targetModules, or use LORA.`,
    { path: site.path, kernel: site.conv.kernel },
  );
}

/** How the features that are rotated fall into blocks. */
function blocksOf(
  { r, oftBlockSize }: OftConfig,
  { kind, inFeatures, outFeatures }: Site,
): { readonly blocks: number; readonly side: number } {
  const features = kind === "embedding" ? outFeatures : inFeatures;
  const side = r ? features / nearestDivisor(features, r) : nearestDivisor(features, oftBlockSize);
  return { blocks: features / side, side };
}

/** The divisor that is nearest to a number, the smaller of two; PEFT's choice. */
function nearestDivisor(features: number, asked: number): number {
  if (asked >= features) return features;
  let above = asked, below = asked;
  while (features % above) above++;
  while (features % below) below--;
  return asked - below <= above - asked ? below : above;
}

/** The rotation of each block [blocks or 1, side, side]. */
function rotation(trace: Trace): Value {
  const { config, site } = trace;
  const q = skewSymmetric(constrained(trace), blocksOf(config, site).side);
  return config.useCayleyNeumann ? cayleyNeumann(q, config.numCayleyNeumannTerms) : cayley(q);
}

/** The leaf, or with `coft` its projection; the gradient is the leaf's own, as in PEFT. */
function constrained({ config, site, leaves }: Trace): Value {
  const leaf = leaves[leafName(site)];
  return config.coft ? add(leaf, stopGradient(sub(projected(config, leaf), leaf))) : leaf;
}

/** Weights whose skew-symmetric matrices are no longer than `eps`, all together. */
function projected({ eps }: OftConfig, leaf: Value): Value {
  if (leaf.shape[1] === 0) return leaf;
  const norm = sqrt(mul(sum(mul(leaf, leaf), { axes: [1], keepDims: true }), 2));
  return mul(leaf, min(div(eps / Math.sqrt(leaf.shape[0]), norm), 1));
}

/** Each block of the last axis times its rotation. */
function rotated(x: Value, r: Value): Value {
  const [blocks, side] = r.shape;
  if (blocks === 1) {
    return reshape(matmul(reshape(x, [-1, side]), reshape(r, [side, side])), x.shape);
  }
  const byBlock = transpose(reshape(x, [-1, blocks, side]), [1, 0, 2]);
  return reshape(transpose(matmul(byBlock, r), [1, 0, 2]), x.shape);
}
