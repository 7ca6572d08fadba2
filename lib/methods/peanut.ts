/**
 * PEANuT: a small network that makes a delta of the weight itself (Zhong et al., 2024,
 * arXiv:2410.01870).
 *
 * A linear layer becomes y = W·x + s·B·f(W)·x, where f reads the columns of W, each of them a row of
 * Wᵀ [in, out], through A [r, out], `depth` layers [r, r] on the way in and as many on the way out,
 * with an activation after each, and with what came in at a depth added where it goes out.
 *
 * @module
 */
import { weightName } from "../model/site.ts";
import { dense } from "../model/weight.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { add, mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import type { Value } from "../ops/value.ts";
import {
  checkLayersPattern,
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type TargetedConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { kaimingUniform } from "./lora/lora-init.ts";
import type { LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";

/** A PEANuT config with every field, as {@link peanutConfig} makes it. */
export interface PeanutConfig extends TargetedConfig {
  /** `"PEANUT"`. */
  readonly peftType: "PEANUT";
  /** Rank: width of the network. 32 by default. */
  readonly r: number;
  /** Hidden layers on the way in, and as many on the way out. 0 by default. */
  readonly depth: number;
  /** Activation after each layer but the last, by transformers' name. `"relu"` by default. */
  readonly actFn: string;
  /** Factor on what is added. 1 by default. */
  readonly scaling: number;
  /** Whether the adapter starts by changing nothing (default); B is random otherwise. */
  readonly initWeights: boolean;
}

const schema: ConfigSchema<PeanutConfig> = {
  peftType: "PEANUT",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("PEANUT"),
    ...targetFields(),
    r: field.integer(32, 1),
    depth: field.integer(0, 0),
    actFn: field.choice("relu", Object.keys(ACTIVATIONS).sort()),
    scaling: field.float(1),
    initWeights: field.boolean(true),
  },
  check: checkLayersPattern,
};

/**
 * A complete PEANuT config (Zhong et al., 2024, arXiv:2410.01870): the delta of each weight is a
 * non-linear function of the weight.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { peanutConfig } from "@graft/peft";
 * const config = peanutConfig({ r: 16, depth: 2, actFn: "silu" });
 * console.log(config.scaling); // 1
 * ```
 */
export function peanutConfig(config: Partial<PeanutConfig> = {}): PeanutConfig {
  return parseConfig(schema, config);
}

const LAYERS = ["peanut_encoders", "peanut_decoders"] as const;

function layersOf({ depth }: PeanutConfig, name: typeof LAYERS[number]): readonly string[] {
  return Array.from({ length: depth }, (_, i) => `${name}.${i}`);
}

/** What the network makes of the weight before B: [in, r]. */
function hidden({ pass, config, site, leaves }: SiteTrace<PeanutConfig>): Value {
  const act = ACTIVATIONS[config.actFn];
  const layer = (x: Value, leaf: string) => act(matmul(x, leaves[leaf], { transposeB: true }));
  const weight = dense(pass.weight(weightName(site)));
  let x = act(matmul(weight, leaves.peanut_A, { transposeA: true, transposeB: true }));
  const kept: Value[] = [];
  for (const leaf of layersOf(config, "peanut_encoders")) {
    kept.push(x);
    x = layer(x, leaf);
  }
  for (const leaf of layersOf(config, "peanut_decoders")) x = add(layer(x, leaf), kept.pop()!);
  return x;
}

const rule: DeltaRule<PeanutConfig> = {
  delta: (trace) =>
    mul(matmul(trace.leaves.peanut_B, hidden(trace), { transposeB: true }), trace.config.scaling),
  apply: (trace, x) =>
    mul(
      matmul(matmul(x, hidden(trace)), trace.leaves.peanut_B, { transposeB: true }),
      trace.config.scaling,
    ),
};

/** The method `PEANUT`. */
export const peanut: PeftMethod<PeanutConfig> = {
  name: "peanut",
  config: schema,
  leaves: {
    site({ config, site: { outFeatures } }) {
      const { r, depth, initWeights } = config;
      const rule = (leaf: string, [rows, features]: readonly number[], first = 0): LeafRule => ({
        shape: [rows, features],
        key: `${leaf}.weight`,
        init({ random }) {
          random.skip(first);
          return kaimingUniform(random, { size: rows * features, features });
        },
      });
      const b = rule("peanut_B", [outFeatures, r]);
      const inner = LAYERS.flatMap((name) =>
        layersOf(config, name).map((leaf) => [leaf, rule(leaf, [r, r])])
      );
      return {
        // torch draws all of them when the layers are made, and again where PEFT sets them.
        peanut_A: rule("peanut_A", [r, outFeatures], 2 * r * (outFeatures + depth * r)),
        ...Object.fromEntries(inner),
        peanut_B: initWeights ? { ...b, init: () => new Float32Array(outFeatures * r) } : b,
      };
    },
  },
  sites: () => ({ linear: rule }),
};
