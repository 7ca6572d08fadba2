/**
 * The config of (IA)³: all fields of PEFT's `IA3Config`.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import {
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  targetFields,
} from "./config.ts";
import { IA3_FEEDFORWARD } from "./default-targets.ts";
import { pythonRegExp } from "./python-regex.ts";

/** An (IA)³ config with every field, as {@link ia3Config} makes it. */
export interface Ia3Config extends PeftConfig {
  /** `"IA3"`. */
  readonly peftType: "IA3";
  /**
   * Which modules: a list of full paths or of their endings, a regular expression for the whole
   * path, or `"all-linear"`; `null` (default) for what is usual for the architecture.
   */
  readonly targetModules: readonly string[] | string | null;
  /** Modules to leave out, as a list or as a regular expression; comes before everything else. */
  readonly excludeModules: readonly string[] | string | null;
  /**
   * Which of the targets have their input scaled, and not their output, as the second layer of a
   * feed-forward block has in the paper: names that `targetModules` holds too, or a regular
   * expression for the whole path. A name stands for all paths that end with it, wherever it begins.
   * `null` (default) for what is usual for the architecture.
   */
  readonly feedforwardModules: readonly string[] | string | null;
  /**
   * Whether the adapted weights are stored [in, out]. Corrected by what the modules are, so it need
   * not be set.
   */
  readonly fanInFanOut: boolean;
  /** Modules that are trained and saved as a whole. */
  readonly modulesToSave: readonly string[] | null;
  /**
   * Whether all factors start as 1 (default), so that the adapter changes nothing at first. With
   * `false` they are normal random numbers, for tests.
   */
  readonly initIa3Weights: boolean;
}

const { targetModules, excludeModules, modulesToSave } = targetFields();

/** The fields of {@link Ia3Config}. */
export const ia3Schema: ConfigSchema<Ia3Config> = {
  peftType: "IA3",
  fields: {
    ...commonFields("IA3"),
    peftType: z.literal("IA3").default("IA3").describe('"IA3"'),
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
    const others = feedforwardModules.filter((name) => !targetModules.includes(name));
    if (others.length) throw notTargeted(others, targetModules);
  },
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
  return parseConfig(ia3Schema, config);
}

/** Whether the input of the module at a path is scaled, and not its output. */
export function isFeedforward({ feedforwardModules }: Ia3Config, path: string): boolean {
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
export function completeIa3(config: Ia3Config, model: ModelGraph): Ia3Config {
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
