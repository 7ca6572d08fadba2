/**
 * (IA)³: infused adapter by inhibiting and amplifying inner activations (Liu et al., 2022,
 * arXiv:2205.05638).
 *
 * A layer y = W·x + b becomes y = l ⊙ (W·x + b) with one learned factor for each output feature, or
 * in a feed-forward module y = W·(l ⊙ x) + b with one for each input feature. Factors of several
 * adapters multiply.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { isOutIn, type Site } from "../model/site.ts";
import { perFeature, perOutput } from "../model/site-product.ts";
import { mul } from "../ops/elementwise.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { averageCombine } from "./average-combine.ts";
import {
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { IA3_FEEDFORWARD, IA3_TARGETS } from "./default-targets.ts";
import type { PeftMethod, SitePlace, SiteTrace } from "./method.ts";
import { pythonRegExp } from "./python-regex.ts";
import { type ChangeRule, checkConvolution, type SiteValues } from "./site-rule.ts";

/** An (IA)³ config with every field, as {@link ia3Config} makes it. */
export interface Ia3Config extends
  PeftConfig,
  Required<
    Pick<TargetConfig, "targetModules" | "excludeModules" | "modulesToSave" | "fanInFanOut">
  > {
  /** `"IA3"`. */
  readonly peftType: "IA3";
  /**
   * Which of the targets have their input scaled, and not their output, as the second layer of a
   * feed-forward block has in the paper: names that `targetModules` holds too, or a regular
   * expression for the whole path. A name stands for all paths that end with it, wherever it begins.
   * `null` (default) for what is usual for the architecture.
   */
  readonly feedforwardModules: readonly string[] | string | null;
  /**
   * Whether all factors start as 1 (default), so that the adapter changes nothing at first. With
   * `false` they are normal random numbers, for tests.
   */
  readonly initIa3Weights: boolean;
}

const { targetModules, excludeModules, modulesToSave } = targetFields();

const schema: ConfigSchema<Ia3Config> = {
  peftType: "IA3",
  targets: IA3_TARGETS,
  keepsTargets: true,
  mixes: true,
  isIdentityAtInit: true,
  example: { feedforwardModules: ".*(down_proj|c_proj)" },
  fields: {
    ...commonFields("IA3"),
    targetModules,
    excludeModules,
    feedforwardModules: field.patterns(),
    fanInFanOut: field.boolean(false),
    modulesToSave,
    initIa3Weights: field.boolean(true),
  },
  check({ targetModules, feedforwardModules }) {
    if (typeof feedforwardModules === "string") pythonRegExp(feedforwardModules);
    if (!Array.isArray(targetModules) || !Array.isArray(feedforwardModules)) return;
    const targets = new Set(targetModules);
    const others = feedforwardModules.filter((name) => !targets.has(name));
    if (others.length) throw notTargeted(others, targetModules);
  },
  fit: completeIa3,
};

/**
 * A complete (IA)³ config (Liu et al., 2022, arXiv:2205.05638): one learned factor for each feature
 * that goes into or comes out of a layer.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields, and for `feedforwardModules` that are not
 * among `targetModules`.
 *
 * @example
 * ```ts
 * import { ia3Config } from "@graft/peft";
 * const config = ia3Config({
 *   targetModules: ["k_proj", "v_proj", "down_proj"],
 *   feedforwardModules: ["down_proj"],
 * });
 * console.log(config.initIa3Weights); // true
 * ```
 */
export function ia3Config(config: Partial<Ia3Config> = {}): Ia3Config {
  return parseConfig(schema, config);
}

/** Whether the input of the module at a path is scaled, and not its output. */
function isFeedforward({ feedforwardModules }: Ia3Config, path: string): boolean {
  return typeof feedforwardModules === "string"
    ? pythonRegExp(feedforwardModules).test(path)
    : feedforwardModules?.some((name) => path.endsWith(name)) ?? false;
}

/**
 * The config with the feed-forward modules that are usual for the model, where it names none, and,
 * where it lists its targets, with a choice among those.
 *
 * PEFT takes any list and then cannot read its own file, as it asks for feed-forward modules that
 * are targets by name. Here the same modules are named in a way that it can read.
 *
 * @throws {ConfigError} where none are usual for the model, and for names that stand for no target.
 */
function completeIa3(config: Ia3Config, model: ModelGraph): Ia3Config {
  const type = model.config.model_type as string;
  const usual = IA3_FEEDFORWARD[type];
  const feedforward = config.feedforwardModules ?? usual;
  if (!feedforward) {
    throw new ConfigError(
      "CONFIG_NO_FEEDFORWARD",
      `The config has no feedforwardModules, and IA3 has no usual ones for the model_type ${
        JSON.stringify(type)
      }. Set feedforwardModules, to [] for none.`,
      { modelType: type },
    );
  }
  const { targetModules } = config;
  if (typeof targetModules === "string" || !targetModules || typeof feedforward === "string") {
    return { ...config, feedforwardModules: feedforward };
  }
  const reach = (name: string) =>
    targetModules.some((t) => t.endsWith(name) || name.endsWith(`.${t}`));
  const nowhere = feedforward.filter((name) => !reach(name) && !usual?.includes(name));
  if (nowhere.length) throw notTargeted(nowhere, targetModules);
  return { ...config, feedforwardModules: amongTargets(feedforward.filter(reach), targetModules) };
}

/** Names for the same modules that are targets, or, where those say too much, an expression. */
function amongTargets(
  names: readonly string[],
  targets: readonly string[],
): readonly string[] | string {
  const covered = targets.filter((target) => names.some((name) => target.endsWith(name)));
  const narrower = names.some((name) => !targets.some((target) => target.endsWith(name)));
  if (!narrower) return names.every((name) => targets.includes(name)) ? names : covered;
  const escaped = names.map((name) => name.replace(/[.*+?^${}()|[\]\\-]/g, "\\$&"));
  return `.*(${escaped.join("|")})`;
}

function notTargeted(names: readonly string[], targets: readonly string[]): ConfigError {
  return new ConfigError(
    "CONFIG_FEEDFORWARD",
    `feedforwardModules should be a subset of targetModules: ${
      names.map((name) => JSON.stringify(name)).join(", ")
    } ${names.length === 1 ? "is" : "are"} not among ${JSON.stringify(targets)}. ` +
      "Add what is missing to targetModules, or write feedforwardModules as a regular expression.",
    { names, targets },
  );
}

const rule: ChangeRule<Ia3Config> = {
  input: (trace, x) => scalesInput(trace) ? mul(x, perFeature(trace.site, factors(trace))) : x,
  output: (trace, y) => scalesInput(trace) ? y : mul(y, perFeature(trace.site, factors(trace))),
  weight: merge,
};

/** The method `IA3`. */
export const ia3: PeftMethod<Ia3Config> = {
  name: "ia3",
  config: schema,
  leaves: {
    site(at) {
      const shape = shapeOf(at);
      return {
        ia3_l: {
          shape,
          init({ random }) {
            // PEFT draws them also where it then sets them to 1.
            const drawn = random.normal(sizeOf(shape));
            return at.config.initIa3Weights ? drawn.fill(1) : drawn;
          },
        },
      };
    },
  },
  sites: () => ({ linear: rule, conv1d: rule, conv: rule }),
  combine: averageCombine({ neutral: 1, patterns: { feedforwardModules: isFeedforward } }),
};

function scalesInput({ config, site }: { config: Ia3Config; site: Site }): boolean {
  return isFeedforward(config, site.path);
}

function factors({ leaves: { ia3_l } }: SiteTrace<Ia3Config>): Value {
  return reshape(ia3_l, [-1]);
}

/**
 * A column where outputs are scaled, a row where inputs are: as they multiply W [out, in]. Of a
 * convolution a row of channels, as they multiply what goes in or comes out.
 */
function shapeOf(at: SitePlace<Ia3Config>): readonly number[] {
  const { inFeatures, outFeatures, conv } = at.site;
  checkConvolution("IA3", at.site, { ranks: [2, 3], groups: true });
  if (conv) return [1, scalesInput(at) ? inFeatures : outFeatures, ...conv.kernel.map(() => 1)];
  return scalesInput(at) ? [1, inFeatures] : [outFeatures, 1];
}

function merge(trace: SiteTrace<Ia3Config>, { weight, bias }: SiteValues): SiteValues {
  const scale = factors(trace), { site } = trace;
  if (!scalesInput(trace)) {
    const merged = mul(weight, perOutput(site, scale));
    return bias ? { weight: merged, bias: mul(bias, scale) } : { weight: merged };
  }
  if (!site.conv) {
    return { weight: mul(weight, isOutIn(site) ? scale : reshape(scale, [-1, 1])), bias };
  }
  // Each group has its own inputs.
  const { groups } = site.conv, each = site.inFeatures / groups;
  const apart = mul(
    reshape(weight, [groups, -1, each, sizeOf(site.conv.kernel)]),
    reshape(scale, [groups, 1, each, 1]),
  );
  return { weight: reshape(apart, weight.shape), bias };
}
