/**
 * HiRA: Hadamard high-rank adaptation (Huang et al., 2025, openreview.net/pdf?id=TwJrTz9cRS).
 *
 * A weight W becomes W + W ⊙ (B·A), with B·A of rank r: what is added can have as high a rank as the
 * weight.
 *
 * @module
 */
import { z } from "zod";
import { isOutIn, type Site, weightName, weightShape } from "../model/site.ts";
import { dense, lookup } from "../model/weight.ts";
import { mul } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import {
  checkExpression,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type TargetConfig,
  type TargetedConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { kaimingUniform } from "./lora/lora-init.ts";
import { pattern, patternValue } from "./site-pattern.ts";
import { factorShapes } from "./lora/lora-factors.ts";
import type { LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import { pythonRegExp } from "./python-regex.ts";
import { checkConvolution, type DeltaRule } from "./site-rule.ts";

/** A HiRA config with every field, as {@link hiraConfig} makes it. */
export interface HiraConfig extends TargetedConfig, Required<Pick<TargetConfig, "fanInFanOut">> {
  /** `"HIRA"`. */
  readonly peftType: "HIRA";
  /** Rank of B·A. 32 by default. */
  readonly r: number;
  /**
   * Probability with which an input feature is dropped before the delta in training, from 0 up to, but
   * not including, 1; not before embeddings. 0 by default.
   */
  readonly hiraDropout: number;
  /**
   * How A and B start: `true` (default) with A as a linear layer starts and B zero; `"gaussian"` with A
   * normal of a standard deviation of 1/r in linear layers; `false`, and `null` but for embeddings,
   * with both random, so that the adapter changes something at once. Embeddings start with A zero and
   * B normal, unless it is `false`.
   */
  readonly initWeights: boolean | "gaussian" | null;
  /**
   * Has no effect on a new adapter, as in PEFT: every site gets `r`. Files are read where PEFT gave
   * a module these ranks, as it does to a second adapter of it.
   */
  readonly rankPattern: Readonly<Record<string, number>>;
}

const schema: ConfigSchema<HiraConfig> = {
  peftType: "HIRA",
  targets: ATTENTION_TARGETS,
  mixes: true,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("HIRA"),
    ...targetFields(),
    r: field.integer(32, 1),
    hiraDropout: field.probability(0),
    fanInFanOut: field.boolean(false),
    initWeights: z.union([z.boolean(), z.literal("gaussian")]).nullable().default(true)
      .describe('true, false, "gaussian" or null'),
    rankPattern: pattern(z.int().min(1), "whole numbers above 0"),
  },
  check(config) {
    checkExpression(config);
    Object.keys(config.rankPattern).forEach(pythonRegExp);
  },
};

/**
 * A complete HiRA config (Huang et al., 2025, openreview.net/pdf?id=TwJrTz9cRS): the weight times a
 * low-rank matrix, element by element.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { hiraConfig } from "@graft/peft";
 * const config = hiraConfig({ r: 16, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.hiraDropout); // 0
 * ```
 */
export function hiraConfig(config: Partial<HiraConfig> = {}): HiraConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<HiraConfig>;

const embedding: DeltaRule<HiraConfig> = {
  delta(trace) {
    const { site, pass } = trace, { a, b } = factors(trace);
    const factor = isOutIn(site)
      ? matmul(b, a)
      : matmul(a, b, { transposeA: true, transposeB: true });
    // The base's own weight, also where other adapters have been merged before this one.
    return mul(dense(pass.weight(weightName(site))), reshape(factor, weightShape(site)));
  },
  apply(trace, ids) {
    const { a, b } = factors(trace), rows = gather(transpose(a), ids);
    const own = lookup(trace.pass.weight(weightName(trace.site)), ids);
    return mul(own, matmul(rows, b, { transposeB: true }));
  },
};

const multiplying: DeltaRule<HiraConfig> = {
  delta: embedding.delta,
  dropout: ({ hiraDropout }) => hiraDropout,
};

/** A [r, in] and B [out, r]; of a convolution A [r, in · kernel]. */
function factors({ site, leaves }: Trace): { readonly a: Value; readonly b: Value } {
  const [a, b] = namesOf(site).map((name) => reshape(leaves[name], [leaves[name].shape[0], -1]));
  return { a, b };
}

function namesOf({ kind }: Site): readonly [string, string] {
  return kind === "embedding" ? ["hira_embedding_A", "hira_embedding_B"] : ["hira_A", "hira_B"];
}

/** The method `HIRA`. */
export const hira: PeftMethod<HiraConfig> = {
  name: "hira",
  config: schema,
  leaves: { site: ({ config, site }) => leavesOf(config, site) },
  sites: () => ({
    linear: multiplying,
    conv1d: multiplying,
    conv: multiplying,
    embedding,
  }),
};

function leavesOf(config: HiraConfig, site: Site): Readonly<Record<string, LeafRule>> {
  checkConvolution("HIRA", site, { ranks: [1, 2, 3] });
  const { r, initWeights: init } = config, [nameA, nameB] = namesOf(site);
  const { a, b } = factorShapes(site, r);
  const other = factorShapes(site, patternValue(config.rankPattern, site.path) ?? r);
  const isRows = site.kind === "embedding", isDrawn = init === false || (init === null && !isRows);
  const size = sizeOf(a);
  // PEFT draws both before it sets either to what it begins with.
  let drawnB: Float32Array<ArrayBuffer>;
  return {
    [nameA]: {
      shape: a,
      accepts: (found) => found.join() === other.a.join(),
      init({ random }) {
        const drawn = random.normal(size);
        drawnB = random.normal(sizeOf(b));
        if (isDrawn) return drawn;
        if (isRows) return drawn.fill(0);
        return init === "gaussian" && !site.conv
          ? random.normal(size, { std: 1 / r })
          : kaimingUniform(random, { size, features: size / r });
      },
    },
    [nameB]: {
      shape: b,
      accepts: (found) => found.join() === other.b.join(),
      init: ({ random }) => isDrawn ? drawnB : isRows ? random.normal(sizeOf(b)) : drawnB.fill(0),
    },
  };
}
