/**
 * C³A: circular convolution adaptation (Chen et al., 2024, arXiv:2407.19342).
 *
 * The change of a weight [O, I] consists of circulant blocks of b rows and columns, each of which one
 * kernel w [b] says whole: ΔW[m·b + i, n·b + j] = w[m, n, (j − i) mod b] / I. What a block gives is a
 * circular correlation, which the discrete Fourier transform turns into products of numbers.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import { broadcast } from "../ops/broadcast.ts";
import { cast } from "../ops/cast.ts";
import { concat } from "../ops/concat.ts";
import { equal, mul, neg, sub } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import {
  checkTargets,
  commonFields,
  type ConfigSchema,
  field,
  type FieldType,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { UNFUSED_TARGETS } from "./default-targets.ts";
import { pattern, patternValueAtEnd } from "./site-pattern.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { pythonRegExp } from "./python-regex.ts";
import type { DeltaRule } from "./site-rule.ts";
import type { TorchRandom } from "./torch-random.ts";
import { waves } from "./waves.ts";

/** What the kernels of C³A begin as; `true` for zeros, `false` for `"xavier_uniform"`. */
export type C3aInit = boolean | "gaussian" | "kaiming_uniform" | "xavier_uniform";

/** A C³A config with every field, as {@link c3aConfig} makes it. */
export interface C3aConfig extends
  PeftConfig,
  Required<
    Pick<
      TargetConfig,
      "targetModules" | "modulesToSave" | "layersToTransform" | "layersPattern"
    >
  > {
  /** `"C3A"`. */
  readonly peftType: "C3A";
  /**
   * Side of a block, which divides the features that go in and those that come out. 256 by default;
   * the larger, the fewer parameters.
   */
  readonly blockSize: number;
  /** Other sides, by module name or regular expression; the first that fits counts. */
  readonly blockSizePattern: Readonly<Record<string, number>>;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"c3a_only"`, those of
   * the adapted modules.
   */
  readonly bias: "none" | "all" | "c3a_only";
  /**
   * What kernels begin as: `"xavier_uniform"` (default), `"kaiming_uniform"`, `"gaussian"`, or `true`
   * for zeros, with which the adapter changes nothing at first.
   */
  readonly initWeights: C3aInit;
}

const { targetModules, modulesToSave, layersToTransform, layersPattern } = targetFields();
const INITS = [true, false, "gaussian", "kaiming_uniform", "xavier_uniform"] as const;

const schema: ConfigSchema<C3aConfig> = {
  peftType: "C3A",
  targets: UNFUSED_TARGETS,
  example: { blockSize: 8 },
  fields: {
    ...commonFields("C3A"),
    targetModules,
    modulesToSave,
    layersToTransform,
    layersPattern,
    blockSize: field.integer(256, 1),
    blockSizePattern: pattern(z.int().min(1), "whole numbers above 0", patternValueAtEnd),
    bias: field.choice("none", ["none", "all", "c3a_only"]),
    initWeights: z.literal(INITS).default("xavier_uniform")
      .describe(`one of ${INITS.join(", ")}`) as unknown as FieldType<C3aInit>,
  },
  check(config) {
    // PEFT lets layersPattern pass alone, and does not look at it.
    const alone = config.layersToTransform === null && typeof config.targetModules !== "string";
    checkTargets(alone ? { ...config, layersPattern: null } : config);
    Object.keys(config.blockSizePattern).forEach(pythonRegExp);
  },
};

/**
 * A complete C³A config (Chen et al., 2024, arXiv:2407.19342): changes of full rank from circulant
 * blocks, with a parameter for each row of a block.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { c3aConfig } from "@graft/peft";
 * const config = c3aConfig({ blockSize: 64, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.initWeights); // xavier_uniform
 * ```
 */
export function c3aConfig(config: Partial<C3aConfig> = {}): C3aConfig {
  return parseConfig(schema, config);
}

const rule: DeltaRule<C3aConfig> = {
  delta(trace) {
    const w = kernels(trace), [m, n, b] = w.shape, width = 2 * b - 1;
    // Repeated without end, a kernel begins one element earlier every 2b − 1 elements.
    const repeated = broadcast(reshape(w, [m, n, 1, b]), [m, n, width, b]);
    const rows = sliceAxis(reshape(repeated, [m, n, b, width]), { axis: 3, start: 0, size: b });
    return reshape(transpose(rows, [0, 2, 1, 3]), [m * b, n * b]);
  },
  apply(trace, x) {
    const w = kernels(trace), [m, n, b] = w.shape, half = Math.floor(b / 2) + 1;
    const frequencies = iota(x.graph, [half], { axis: 0 });
    const { cosines, sines } = waves(frequencies, b, { as: "columns" });
    const dft = concat([cosines, neg(sines)], { axis: 1 });
    // Two of the frequencies, or one of an odd number, stand for themselves, the others for two.
    const alone = (x: Value) => cast(x, "f32");
    const count = sub(sub(2, alone(equal(frequencies, 0))), alone(equal(mul(frequencies, 2), b)));
    const weights = mul(concat([count, count], { axis: 0 }), 1 / b);
    /** Real and imaginary parts of [..., b]: each [half, ...]. */
    const parts = (x: Value) => {
      const flat = transpose(matmul(reshape(x, [-1, b]), dft));
      return [0, half].map((start) => sliceAxis(flat, { axis: 0, start, size: half }));
    };
    const [re, im] = parts(x).map((part) => reshape(part, [half, -1, n]));
    const [wr, wi] = parts(w).map((part) => reshape(part, [half, m, n]));
    // The conjugate of ŵ times x̂, as one product of real numbers.
    const whole = concat([concat([wr, wi], { axis: 2 }), concat([neg(wi), wr], { axis: 2 })], {
      axis: 1,
    });
    const y = matmul(concat([re, im], { axis: 2 }), whole, { transposeB: true });
    const rows = reshape(transpose(reshape(y, [half, -1, 2, m]), [1, 3, 2, 0]), [-1, 2 * half]);
    const back = matmul(mul(rows, weights), dft, { transposeB: true });
    return reshape(back, [...x.shape.slice(0, -1), m * b]);
  },
};

/** The method `C3A`. */
export const c3a: PeftMethod<C3aConfig> = {
  name: "c3a",
  config: schema,
  leaves: {
    site({ config, site }) {
      const b = patternValueAtEnd(config.blockSizePattern, site.path) ?? config.blockSize;
      const shape = [blocks(site, "outFeatures", b), blocks(site, "inFeatures", b), b];
      const init = ({ random }: { readonly random: TorchRandom }) =>
        initial(config.initWeights, site, { random, size: sizeOf(shape) });
      return { c3a_kernel: { shape, init } };
    },
  },
  sites: () => ({ linear: rule }),
};

/** How many blocks of side b features are. */
function blocks(site: Site, features: "inFeatures" | "outFeatures", b: number): number {
  const size = site[features];
  if (size % b === 0) return size / b;
  throw new ConfigError(
    "CONFIG_BLOCK_SIZE",
    `The block size should be a factor of the ${
      features === "inFeatures" ? "input" : "output"
    } size, and ${b} is none of ${size} at ${site.path}. Set blockSize to a common divisor of all, or another one there by blockSizePattern.`,
    { path: site.path, blockSize: b, size },
  );
}

function initial(
  init: C3aInit,
  { inFeatures, outFeatures }: Site,
  { random, size }: { readonly random: TorchRandom; readonly size: number },
): Float32Array<ArrayBuffer> {
  if (init === true) return new Float32Array(size);
  if (init === "gaussian") return random.normal(size);
  const bound = init === "kaiming_uniform"
    ? Math.sqrt(1 / inFeatures)
    : Math.sqrt(3) * Math.sqrt(2 / (inFeatures + outFeatures));
  return random.uniform(size, { low: -bound, high: bound });
}

/** The kernels [O / b, I / b, b] as they act on the input. */
function kernels({ leaves, site }: SiteTrace<C3aConfig>): Value {
  return mul(leaves.c3a_kernel, 1 / site.inFeatures);
}
