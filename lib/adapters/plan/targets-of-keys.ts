/**
 * Which modules a state dict is of, for configs that do not say it.
 *
 * @module
 */
import { ConfigError, nearestHint, TargetError } from "../../errors.ts";
import { isTargetConfig, type PeftConfig, type TargetConfig } from "../../methods/config.ts";
import { methodOf, type RegistryOptions } from "../../methods/mod.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { keyStart } from "../lazy-leaves.ts";

/**
 * The config with the modules as targets that a state dict has leaves of, in the place of those that
 * the config names, leaves out or asks for by layer. Values do not matter, and so do keys of no leaf.
 *
 * @param config A config of a method that adapts modules.
 * @param of The base, and the state dict by its keys, with PEFT's prefix or without.
 * @throws {ConfigError} `STATE_DICT_TARGETS` for a config that adapts parameters, or no modules by name.
 * @throws {TargetError} `TARGET_NOT_FOUND` for leaves of modules that the base has not, but with
 * `allowUnmatched`.
 */
export function targetsOfKeys(
  config: PeftConfig,
  of: RegistryOptions & {
    readonly base: ModelGraph;
    readonly stateDict: { keys(): Iterable<string> };
    readonly allowUnmatched?: boolean;
  },
): PeftConfig {
  const method = methodOf(config.peftType, of.registry), { base, allowUnmatched } = of;
  if (!isTargetConfig(config) || config.targetParameters?.length) {
    throw new ConfigError(
      "STATE_DICT_TARGETS",
      `A stateDict says which modules are adapted, and this ${config.peftType} config ${
        isTargetConfig(config) ? "adapts parameters (targetParameters)" : "adapts none by name"
      }. Leave one of the two out.`,
    );
  }
  const prefix = `.${method.prefix ?? `${method.name}_`}`, start = keyStart(method);
  const named = new Set<string>();
  for (const key of of.stateDict.keys()) {
    const bare = key.replace("_orig_mod.", "").replace(start, ""), end = bare.lastIndexOf(prefix);
    if (end > 0) named.add(bare.slice(0, end).replace(/\.base_layer\..*/, ""));
  }
  const paths = [...base.sites.keys()], targets = paths.filter((path) => named.has(path));
  const unknown = [...named].filter((path) => !base.sites.has(path));
  if (targets.length === 0 || unknown.length && !allowUnmatched) {
    const shown = unknown.slice(0, 5).map((name) => `${name}${nearestHint(name, paths)}`);
    throw new TargetError(
      "TARGET_NOT_FOUND",
      targets.length || unknown.length
        ? `The stateDict has leaves of modules that the base has not: ${shown.join("; ")}${
          unknown.length > 5 ? ` and ${unknown.length - 5} more` : ""
        }.`
        : `The stateDict has no keys of ${config.peftType}, such as ${paths[0]}${prefix}….`,
      { unknown },
    );
  }
  const asEndings = paths.filter((path) => targets.some((t) => path.endsWith(`.${t}`)));
  const exact: TargetConfig["targetModules"] = asEndings.every((path) => named.has(path))
    ? targets
    : targets.map((path) => path.replaceAll(".", "\\.")).join("|");
  const others = { excludeModules: null, layersToTransform: null, layersPattern: null };
  const known = Object.entries(others).filter(([field]) => field in config);
  return { ...config, targetModules: exact, ...Object.fromEntries(known) } as TargetConfig;
}
