/**
 * LoKr: low-rank Kronecker product (Yeh et al., 2023, arXiv:2309.14859; after KronA, Edalati et al.,
 * 2022, arXiv:2212.10650).
 *
 * A weight W [a·b, c·d] becomes W + alpha/r · W₁ ⊗ W₂, with W₁ [a, c] and W₂ [b, d]. Either may itself
 * be a product of two matrices of rank r, and is none where that would not make it smaller.
 *
 * @module
 */
import { z } from "zod";
import type { Site } from "../model/site.ts";
import { mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { type ConfigSchema, field, parseConfig } from "./config.ts";
import { uniformLeaf, zeroLeaf } from "./leaf-inits.ts";
import {
  asWeight,
  coreShape,
  type LycorisConfig,
  lycorisKeep,
  lycorisSchema,
  lycorisShape,
  tucker,
} from "./lycoris.ts";
import type { LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";

/** A LoKr config with every field, as {@link lokrConfig} makes it. */
export interface LokrConfig extends LycorisConfig {
  /** `"LOKR"`. */
  readonly peftType: "LOKR";
  /**
   * Whether W₁, the smaller factor, is a product of rank `r`, too, where that is smaller. False by
   * default.
   */
  readonly decomposeBoth: boolean;
  /**
   * Rows, and columns, of W₁, where they divide the layer's; the largest divisors below it
   * otherwise. -1 (default) for those nearest to the root, so that both factors are about as large.
   */
  readonly decomposeFactor: number;
  /** Whether what `rankDropout` leaves is made larger, so that its mean stays. False by default. */
  readonly rankDropoutScale: boolean;
  /**
   * How the factors begin: `true` (default) with W₁ zero, `"lycoris"` with W₂ zero, so that the
   * adapter changes nothing at first; `false` as a random change.
   */
  readonly initWeights: boolean | "lycoris";
}

const schema: ConfigSchema<LokrConfig> = lycorisSchema("LOKR", {
  decomposeBoth: field.boolean(false),
  decomposeFactor: z.int().default(-1).describe("a whole number"),
  rankDropoutScale: field.boolean(false),
  initWeights: z.union([z.boolean(), z.literal("lycoris")]).default(true)
    .describe('true, false or "lycoris"'),
});

/**
 * A complete LoKr config (Yeh et al., 2023, arXiv:2309.14859): the Kronecker product of two small
 * matrices.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { lokrConfig } from "@graft/peft";
 * const config = lokrConfig({ r: 4, decomposeFactor: 8, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.decomposeBoth); // false
 * ```
 */
export function lokrConfig(config: Partial<LokrConfig> = {}): LokrConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<LokrConfig>;

const convolution: DeltaRule<LokrConfig> = {
  delta(trace) {
    const { site } = trace, [w1, w2] = factors(trace);
    const [a, c] = w1.shape, [b, d, ...kernel] = w2.shape, size = sizeOf(kernel);
    // Of one dimension a whole kernel is [b, a·d, c·k] in PEFT, read as [a·b, c·d, k].
    const isMixed = kernel.length === 1;
    const left = reshape(w1, isMixed ? [1, a, 1, c, 1] : [a, 1, c, 1, 1]);
    const right = reshape(w2, isMixed ? [b, 1, d, 1, size] : [1, b, 1, d, size]);
    return asWeight(mul(left, right), site);
  },
  keep: (trace) => lycorisKeep(trace, { balanced: trace.config.rankDropoutScale }),
};

const linear: DeltaRule<LokrConfig> = {
  ...convolution,
  // Rows of x as matrices X [c, d]: W₁·X·W₂ᵀ are those of the output.
  apply(trace, x) {
    const { leaves, site: { outFeatures } } = trace, [w1] = factors(trace), [, c] = w1.shape;
    const rows = reshape(x, [-1, c, x.shape.at(-1)! / c]);
    const right = leaves.lokr_w2
      ? matmul(rows, leaves.lokr_w2, { transposeB: true })
      : matmul(matmul(rows, leaves.lokr_w2_b, { transposeB: true }), leaves.lokr_w2_a, {
        transposeB: true,
      });
    const y = transpose(matmul(transpose(right), w1, { transposeB: true }));
    return reshape(y, [...x.shape.slice(0, -1), outFeatures]);
  },
};

/** W₁ [a, c] with the scale, and W₂ [b, d] or, of a kernel, [b, d, ...K]; a product is [b, d·K]. */
function factors({ config, site, leaves }: Trace): readonly [Value, Value] {
  const { scale } = lycorisShape(config, site);
  const { lokr_w1, lokr_w1_a, lokr_w1_b, lokr_w2, lokr_w2_a: a, lokr_w2_b: b, lokr_t2 } = leaves;
  return [
    mul(lokr_w1 ?? matmul(lokr_w1_a, lokr_w1_b), scale),
    lokr_w2 ?? (lokr_t2 ? tucker(lokr_t2, { a, b }) : matmul(a, b)),
  ];
}

/** The method `LOKR`. */
export const lokr: PeftMethod<LokrConfig> = {
  name: "lokr",
  config: schema,
  leaves: { site: ({ config, site }) => leavesOf(config, site) },
  sites: () => ({ linear, conv: convolution }),
};

function leavesOf(config: LokrConfig, site: Site): Readonly<Record<string, LeafRule>> {
  const { rank, tucker } = lycorisShape(config, site);
  const { initWeights: init, decomposeBoth, decomposeFactor } = config;
  const { conv: { kernel, groups } = { kernel: [], groups: 1 } } = site;
  const [a, b] = factorize(site.outFeatures, decomposeFactor);
  const [c, d] = factorize(site.inFeatures / groups, decomposeFactor);
  const one = init === true ? zeroLeaf : uniformLeaf;
  const two = init === "lycoris" ? zeroLeaf : uniformLeaf;
  const isSmaller = (rows: number, columns: number) => rank < Math.max(rows, columns) / 2;
  return {
    ...(decomposeBoth && isSmaller(a, c)
      ? { lokr_w1_a: one([a, rank]), lokr_w1_b: uniformLeaf([rank, c]) }
      : { lokr_w1: one([a, c]) }),
    ...(!isSmaller(b, d) ? { lokr_w2: two([b, d, ...kernel]) } : tucker
      ? {
        lokr_w2_a: uniformLeaf([rank, b]),
        lokr_w2_b: two([rank, d]),
        lokr_t2: uniformLeaf(coreShape(rank, site)),
      }
      : { lokr_w2_a: uniformLeaf([b, rank]), lokr_w2_b: two([rank, d * sizeOf(kernel)]) }),
  };
}

/** Two numbers whose product is another, the smaller first: the factor itself where it divides it. */
function factorize(size: number, factor: number): readonly [number, number] {
  if (factor > 0 && size % factor === 0) return [factor, size / factor];
  const limit = factor === -1 ? size : factor;
  let m = 1;
  for (let next = 2; next <= limit && next * next <= size; next++) {
    if (size % next === 0) m = next;
  }
  return [m, size / m];
}
