/**
 * GLoRA: generalized LoRA (Chavan et al., 2023, arXiv:2306.07967).
 *
 * A weight W and its bias b become W + W ⊙ A + B and b + b ⊙ D + E + W·C. A and B, C, and D and E can
 * be products of two matrices, vectors, single numbers or nothing at all.
 *
 * @module
 */
import { weightName } from "../model/site.ts";
import { product } from "../model/site-product.ts";
import { dense } from "../model/weight.ts";
import { constant } from "../ops/constant.ts";
import { add, mul } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
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
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { uniformLeaf, zeroLeaf } from "./leaf-inits.ts";
import type { LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";

/** A GLoRA config with every field, as {@link gloraConfig} makes it. */
export interface GloraConfig
  extends PeftConfig, Required<Pick<TargetConfig, "targetModules" | "modulesToSave">> {
  /** `"GLORA"`. */
  readonly peftType: "GLORA";
  /** Rank of what is a product of two matrices. 8 by default. */
  readonly r: number;
  /**
   * What A and B are: products of [out, r] and [r, in] (`"lora"`, default), one number for each
   * output feature (`"vector"`), one number (`"constant"`) or nothing (`"none"`).
   */
  readonly configAB: "lora" | "vector" | "constant" | "none";
  /**
   * What C [in] is, which takes sums of the weight's columns to the bias: a product of [in, r] and
   * [r, 1] (`"lora"`, default), a vector (`"vector"`) or nothing (`"none"`). Like D and E it is
   * nothing where a layer has no bias.
   */
  readonly configC: "lora" | "vector" | "none";
  /** What D and E are: vectors [out], single numbers (`"constant"`, default) or nothing. */
  readonly configDE: "vector" | "constant" | "none";
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"glora_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "glora_only";
  /** Whether the adapter starts by changing nothing (default); as a random change otherwise. */
  readonly initWeights: boolean;
}

const { targetModules, modulesToSave } = targetFields();

const schema: ConfigSchema<GloraConfig> = {
  peftType: "GLORA",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  fields: {
    ...commonFields("GLORA"),
    r: field.integer(8, 1),
    targetModules,
    bias: field.choice("none", ["none", "all", "glora_only"]),
    modulesToSave,
    configAB: described(field.choice("lora", ["lora", "vector", "constant", "none"]), {
      json: "config_A_B",
    }),
    configC: described(field.choice("lora", ["lora", "vector", "none"]), { json: "config_C" }),
    configDE: described(field.choice("constant", ["vector", "constant", "none"]), {
      json: "config_D_E",
    }),
    initWeights: field.boolean(true),
  },
};

/**
 * A complete GLoRA config (Chavan et al., 2023, arXiv:2306.07967): weights and biases that are scaled
 * and shifted, each in the way that is asked for.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { gloraConfig } from "@graft/peft";
 * const config = gloraConfig({ r: 4, configAB: "vector", targetModules: ["q_proj", "v_proj"] });
 * console.log(config.configC, config.configDE); // lora constant
 * ```
 */
export function gloraConfig(config: Partial<GloraConfig> = {}): GloraConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<GloraConfig>;

/** One of A to E: a matrix, a column, numbers of one axis, or nothing. */
function path({ leaves }: Trace, name: string): Value | undefined {
  const [d, u, x] = ["Xd", "Xu", "X"].map((end) => leaves[`glora_${name}.${end}`]);
  return d ? matmul(d, u) : x;
}

function ownWeight({ pass, site }: Trace): Value {
  return dense(pass.weight(weightName(site)));
}

const rule: DeltaRule<GloraConfig> = {
  delta(trace) {
    const a = path(trace, "A"), b = path(trace, "B"), weight = ownWeight(trace);
    return a && b ? add(mul(weight, a), b) : constant(weight.graph, 0, { shape: weight.shape });
  },
};

const rowwise: DeltaRule<GloraConfig> = {
  ...rule,
  apply(trace, x) {
    const [a, b] = ["A", "B"].map((name) => path(trace, name)).map((y) => y && reshape(y, [-1]));
    if (!a || !b) return constant(x.graph, 0, { shape: [1] });
    const { pass, site } = trace;
    const own = product(site, x, pass.weight(weightName(site)));
    return add(mul(own, a), mul(sum(x, { axes: [-1], keepDims: true }), b));
  },
};

function bias(trace: Trace): Value | undefined {
  const { pass, site } = trace;
  if (!site.bias) return undefined;
  const [c, d, e] = ["C", "D", "E"].map((name) => path(trace, name));
  const parts = [
    ...(c ? [reshape(matmul(ownWeight(trace), c), [-1])] : []),
    ...(d && e ? [add(mul(pass.parameter(`${site.path}.bias`), d), e)] : []),
  ];
  return parts.length ? parts.reduce(add) : undefined;
}

/** The method `GLORA`. */
export const glora: PeftMethod<GloraConfig> = {
  name: "glora",
  config: schema,
  leaves: {
    site({ config, site: { inFeatures, outFeatures, bias } }) {
      const { configAB, configC, configDE } = config;
      const [c, de] = bias ? [configC, configDE] : ["none", "none"] as const;
      return {
        ...pathLeaves("A", configAB, [outFeatures, inFeatures], config),
        ...pathLeaves("B", configAB, [outFeatures, inFeatures], config),
        ...pathLeaves("C", c, [inFeatures, 1], config),
        ...pathLeaves("D", de, [outFeatures], config),
        ...pathLeaves("E", de, [outFeatures], config),
      };
    },
  },
  sites: ({ configAB, configC, configDE }) => ({
    linear: {
      ...(configAB === "lora" ? rule : rowwise),
      ...((configC !== "none" || configDE !== "none") && { bias }),
    },
  }),
};

/** Leaves of one of A to E, which is a matrix or, of one axis, a vector of this shape as a whole. */
function pathLeaves(
  name: string,
  kind: "lora" | "vector" | "constant" | "none",
  shape: readonly number[],
  { r, initWeights }: GloraConfig,
): Readonly<Record<string, LeafRule>> {
  const [rows, columns] = shape, leaf = `glora_${name}`;
  const last = (shape: readonly number[], drawn: LeafRule) =>
    initWeights ? zeroLeaf(shape) : { ...drawn, shape };
  switch (kind) {
    case "lora":
      return {
        [`${leaf}.Xu`]: uniformLeaf([r, columns]),
        [`${leaf}.Xd`]: last([rows, r], uniformLeaf([rows, r])),
      };
    case "vector":
      return columns
        ? { [`${leaf}.X`]: last([rows, 1], uniformLeaf([rows, 1])) }
        : { [`${leaf}.X`]: last([rows], uniformLeaf([1, rows])) };
    case "constant":
      return {
        [`${leaf}.X`]: last([1], {
          shape: [1],
          init: ({ random }) => random.normal(1, { std: 0.02 }),
        }),
      };
    case "none":
      // PEFT's files hold the zeros that stand for it.
      return { [`${leaf}.zeros`]: { ...zeroLeaf(shape), kind: "fixed", key: `${leaf}.zeros` } };
  }
}
