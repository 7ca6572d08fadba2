/**
 * LoHa: low-rank Hadamard product (Hyeon-Woo et al., 2021, arXiv:2108.06098).
 *
 * A weight W becomes W + alpha/r · (A₁·B₁) ⊙ (A₂·B₂). The element-wise product of two matrices of
 * rank r has a rank of up to r².
 *
 * @module
 */
import { fanIn, weightShape } from "../model/site.ts";
import type { LowRank } from "../model/weight.ts";
import { mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { type ConfigSchema, field, parseConfig } from "./config.ts";
import { uniformLeaf, zeroLeaf } from "./leaf-inits.ts";
import { lowRankRule } from "./low-rank.ts";
import {
  asWeight,
  coreShape,
  type LycorisConfig,
  lycorisKeep,
  lycorisSchema,
  lycorisShape,
  tucker,
} from "./lycoris.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";

/** A LoHa config with every field, as {@link lohaConfig} makes it. */
export interface LohaConfig extends LycorisConfig {
  /** `"LOHA"`. */
  readonly peftType: "LOHA";
  /** Whether the adapter starts by changing nothing (default); as a random change otherwise. */
  readonly initWeights: boolean;
}

const schema: ConfigSchema<LohaConfig> = lycorisSchema("LOHA", {
  initWeights: field.boolean(true),
});

/**
 * A complete LoHa config (Hyeon-Woo et al., 2021, arXiv:2108.06098): the element-wise product of two
 * low-rank matrices.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { lohaConfig } from "@graft/peft";
 * const config = lohaConfig({ r: 4, alpha: 8, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.rankDropout); // 0
 * ```
 */
export function lohaConfig(config: Partial<LohaConfig> = {}): LohaConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<LohaConfig>;

const convolution: DeltaRule<LohaConfig> = {
  delta({ config, site, leaves }: Trace) {
    const { scale, tucker: isTucker } = lycorisShape(config, site);
    const [one, two] = ["1", "2"].map((n) => {
      const a = leaves[`hada_w${n}_a`], b = leaves[`hada_w${n}_b`];
      return isTucker ? tucker(leaves[`hada_t${n}`], { a, b }) : matmul(a, b);
    });
    return asWeight(mul(mul(one, scale), two), site);
  },
  keep: (trace) => lycorisKeep(trace, { balanced: true }),
};

/** The same as two factors of rank r²: products of all pairs of columns, and of rows (Khatri and Rao). */
function pairs({ config, site, leaves }: Trace): LowRank {
  const { rank, scale } = lycorisShape(config, site), { inFeatures, outFeatures } = site;
  const pair = (name: string, [first, second]: readonly (readonly number[])[]) =>
    mul(reshape(leaves[`hada_w1_${name}`], first), reshape(leaves[`hada_w2_${name}`], second));
  const left = pair("a", [[outFeatures, rank, 1], [outFeatures, 1, rank]]);
  const right = pair("b", [[rank, 1, inFeatures], [1, rank, inFeatures]]);
  return {
    left: mul(reshape(left, [outFeatures, -1]), scale),
    right: reshape(right, [-1, inFeatures]),
  };
}

const linear: DeltaRule<LohaConfig> = { ...lowRankRule(pairs), ...convolution };

/** The method `LOHA`. */
export const loha: PeftMethod<LohaConfig> = {
  name: "loha",
  prefix: "hada_",
  config: schema,
  leaves: {
    site({ config, site }) {
      const { rank, tucker } = lycorisShape(config, site);
      const { outFeatures } = site, inner = tucker ? weightShape(site)[1] : fanIn(site);
      const a = uniformLeaf(tucker ? [rank, outFeatures] : [outFeatures, rank]);
      const b = uniformLeaf([rank, inner]);
      const core = tucker && uniformLeaf(coreShape(rank, site));
      return {
        hada_w1_a: a,
        hada_w1_b: b,
        hada_w2_a: a,
        hada_w2_b: config.initWeights ? zeroLeaf(b.shape) : b,
        ...(core && { hada_t1: core, hada_t2: core }),
      };
    },
  },
  sites: () => ({ linear, conv: convolution }),
};
