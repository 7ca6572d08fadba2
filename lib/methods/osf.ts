/**
 * OSF: orthogonal subspace fine-tuning (Nayak et al., 2025, arXiv:2504.07097), for learning one thing
 * after another.
 *
 * The weight of a linear layer is decomposed, W = U·diag(s)·V. The largest singular values and their
 * vectors, which hold most of what is known, stay as they are; all the others are trained. Their vectors
 * move only across those that stay: what gradients have along them is taken out.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import { concat } from "../ops/concat.ts";
import { constant } from "../ops/constant.ts";
import { mul, neg, sub } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import {
  commonFields,
  type ConfigSchema,
  described,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { OSF_TARGETS } from "./default-targets.ts";
import { flatMatrix, leadingSvd, transposed } from "./linalg.ts";
import { lowRankRule } from "./low-rank.ts";
import type { InitSource, LeafRule, PeftMethod } from "./method.ts";
import { pythonRegExp } from "./python-regex.ts";
import type { DeltaRule } from "./site-rule.ts";
import type { MethodTraining, TrainedAdapter } from "./training-rule.ts";

/** An OSF config with every field, as {@link osfConfig} makes it. */
export interface OsfConfig
  extends PeftConfig, Required<Pick<TargetConfig, "targetModules" | "modulesToSave">> {
  /** `"OSF"`. */
  readonly peftType: "OSF";
  /**
   * How many singular values stay as they are: a whole number, or below 1 a share of all; what is over
   * is cut down to all. `null` (default) for half of them. A whole 1 is one value.
   */
  readonly effectiveRank: number | null;
  /**
   * Other such numbers, by regular expressions that are looked for in module paths; the first that is
   * found counts. `null` by default.
   */
  readonly rankPattern: Readonly<Record<string, number>> | null;
  /**
   * Whether what is trained starts from the weight (default), so that the adapter changes nothing at
   * first. With `false` it is normal random, for tests.
   */
  readonly initWeights: boolean | null;
  /** Has no effect, as in PEFT. */
  readonly targetSvdConfig: Readonly<Record<string, unknown>> | null;
}

const { targetModules, modulesToSave } = targetFields();

const schema: ConfigSchema<OsfConfig> = {
  peftType: "OSF",
  targets: OSF_TARGETS,
  otherTargets: "all-linear",
  isIdentityAtInit: true,
  fields: {
    ...commonFields("OSF"),
    targetModules,
    modulesToSave,
    effectiveRank: z.number().nullable().default(null).describe("a number or null"),
    rankPattern: {
      ...described(
        z.record(z.string(), z.number()).nullable().default(null)
          .describe("an object of numbers by regular expression, or null"),
      ),
      valueAt: rankFound,
    },
    initWeights: z.boolean().nullable().default(true).describe("true, false or null"),
    targetSvdConfig: field.object(),
  },
  check: ({ rankPattern }) => Object.keys(rankPattern ?? {}).forEach(pythonRegExp),
};

/**
 * A complete OSF config (Nayak et al., 2025, arXiv:2504.07097): what matters least to a weight is
 * trained, and what matters most stays as it is.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { osfConfig } from "@graft/peft";
 * const config = osfConfig({ effectiveRank: 0.75, rankPattern: { "layers\\.0\\.": 0.5 } });
 * console.log(config.initWeights); // true
 * ```
 */
export function osfConfig(config: Partial<OsfConfig> = {}): OsfConfig {
  return parseConfig(schema, config);
}

/** The value of the first key that is found anywhere in a path, as by Python's `re.search`. */
function rankFound(
  patterns: Readonly<Record<string, number>>,
  path: string,
): number | undefined {
  return Object.entries(patterns).find(([key]) => pythonRegExp(`.*(?:${key}).*`).test(path))?.[1];
}

/** How many singular values of a site stay, and how many are trained. */
function ranksAt(
  { effectiveRank, rankPattern }: OsfConfig,
  { path, inFeatures, outFeatures }: Site,
): { readonly high: number; readonly low: number } {
  const all = Math.min(inFeatures, outFeatures);
  const asked = rankFound(rankPattern ?? {}, path) ?? effectiveRank ?? 0.5;
  const high = Math.min(all, Math.trunc(asked > 0 && asked < 1 ? all * asked : asked));
  if (high > 0) return { high, low: all - high };
  throw new ConfigError(
    "CONFIG_OSF",
    `effectiveRank must leave one singular value at least as it is; ${asked} of the ${all} of ${path} is none. Raise it, there by rankPattern.`,
    { path, effectiveRank: asked },
  );
}

/** What is trained less what it started from, which is a part of the weight. */
const rule: DeltaRule<OsfConfig> = lowRankRule(({ leaves, site: { inFeatures, outFeatures } }) => {
  const { osf_U_low: u, osf_S_low: s, osf_V_low: v } = leaves;
  // Where all singular values stay, nothing changes.
  if (s.shape[0] === 0) {
    const none = (shape: readonly number[]) => constant(s.graph, 0, { shape });
    return { left: none([outFeatures, 1]), right: none([1, inFeatures]) };
  }
  const started = mul(leaves.osf_U_low_init, leaves.osf_S_low_init);
  return {
    left: concat([mul(u, s), neg(started)], { axis: 1 }),
    right: concat([v, leaves.osf_V_low_init], { axis: 0 }),
  };
});

/** The method `OSF`. */
export const osf: PeftMethod<OsfConfig> = {
  name: "osf",
  config: schema,
  leaves: { site: ({ config, site }) => leavesAt(config, site) },
  sites: () => ({ linear: rule }),
  training: projection,
};

/**
 * The trained factors, those that they start from, and of the side with more features the vectors that
 * stay. Of the other side, all directions but those that stay are those of the start.
 */
function leavesAt(
  config: OsfConfig,
  site: Site,
): Readonly<Record<string, LeafRule>> {
  const { inFeatures, outFeatures } = site, { high, low } = ranksAt(config, site);
  const { initWeights } = config;
  let found: Promise<Readonly<Record<string, Float32Array<ArrayBuffer>>>> | undefined;
  const part = (name: string) => async (from: InitSource) =>
    (await (found ??= decomposed(site, { high, from })))[name];
  const shapes = { U_low: [outFeatures, low], S_low: [low], V_low: [low, inFeatures] };
  const trained = Object.entries(shapes).map((
    [name, shape],
  ): [string, LeafRule] => [`osf_${name}`, {
    shape,
    key: `osf_svd_params.${name}`,
    init: initWeights === false ? ({ random }) => random.normal(sizeOf(shape)) : part(name),
  }]);
  const fixed = (name: string, shape: readonly number[], of = name): [string, LeafRule] => [
    `osf_${name}`,
    { shape, kind: "fixed", init: part(of) },
  ];
  return Object.fromEntries([
    ...trained,
    ...Object.entries(shapes).map(([name, shape]) => fixed(`${name}_init`, shape, name)),
    ...(outFeatures > inFeatures ? [fixed("U_high", [outFeatures, high])] : []),
    ...(outFeatures < inFeatures ? [fixed("V_high", [high, inFeatures])] : []),
  ]);
}

async function decomposed(
  { inFeatures, outFeatures }: Site,
  of: { readonly high: number; readonly from: InitSource },
): Promise<Readonly<Record<string, Float32Array<ArrayBuffer>>>> {
  const { high, from } = of, all = Math.min(inFeatures, outFeatures);
  const weight = flatMatrix(await from.weight(), { rows: outFeatures, columns: inFeatures });
  const { u, s, v } = leadingSvd(weight, all);
  const columns = (from: number, to: number) => {
    const rows = u.data.subarray(from * outFeatures, to * outFeatures);
    return Float32Array.from(
      transposed({ rows: to - from, columns: outFeatures, data: rows }).data,
    );
  };
  return {
    U_low: columns(high, all),
    S_low: Float32Array.from(s.subarray(high)),
    V_low: Float32Array.from(v.data.subarray(high * inFeatures)),
    U_high: columns(0, high),
    V_high: Float32Array.from(v.data.subarray(0, high * inFeatures)),
  };
}

/** Takes what lies along the vectors that stay out of the gradients of those that do not. */
function projection(
  { config, sites, nameOf }: TrainedAdapter<OsfConfig>,
): MethodTraining<OsfConfig> {
  return {
    gradient({ gradients, fixed }) {
      const projected = new Map<string, Value>();
      for (const site of sites) {
        if (ranksAt(config, site).low === 0) continue;
        const { inFeatures, outFeatures } = site;
        const kept = (leaf: string) => fixed(nameOf(leaf, site));
        const [u, v] = [nameOf("osf_U_low", site), nameOf("osf_V_low", site)];
        const across = (g: Value, basis: Value) =>
          matmul(basis, matmul(basis, g, { transposeA: true }));
        const along = (g: Value, basis: Value) =>
          matmul(matmul(g, basis, { transposeB: true }), basis);
        const dU = gradients.get(u)!, dV = gradients.get(v)!;
        projected.set(
          u,
          outFeatures > inFeatures
            ? sub(dU, across(dU, kept("osf_U_high")))
            : across(dU, kept("osf_U_low_init")),
        );
        projected.set(
          v,
          outFeatures < inFeatures
            ? sub(dV, along(dV, kept("osf_V_high")))
            : along(dV, kept("osf_V_low_init")),
        );
      }
      return projected;
    },
  };
}
