/**
 * Which modules the patterns of a config mean, with PEFT's rules.
 *
 * @module
 */
import type { TargetConfig } from "../../methods/config.ts";
import { pythonRegExp } from "../../methods/python-regex.ts";

/** Why a module that a target names is left out. */
export type Exclusion = "excludeModules" | "modulesToSave";

/** A config's patterns, ready to be asked about paths. */
export interface ModuleMatcher {
  /** Why a module is left out whatever the targets say; `undefined` where it is not. */
  excluded(path: string): Exclusion | undefined;
  /**
   * Whether a target names a module, by full path, by the end of its path or by regular expression.
   */
  names(target: string, path: string): boolean;
  /**
   * Whether a module that a target names is in one of the layers that were asked for. Full paths
   * and expressions are not filtered.
   */
  inLayers(target: string, path: string): boolean;
}

/**
 * Prepares the patterns of a config.
 *
 * @throws {ConfigError} for a regular expression that cannot be read.
 */
export function createMatcher(config: TargetConfig): ModuleMatcher {
  const { targetModules, excludeModules, layersToTransform = null } = config;
  const target = typeof targetModules === "string" ? pythonRegExp(targetModules) : undefined;
  const exclude = typeof excludeModules === "string" && excludeModules
    ? pythonRegExp(excludeModules)
    : undefined;
  const saved = (config.modulesToSave ?? []).map((m) => pythonRegExp(`(^|.*\\.)${m}($|\\..*)`));
  const layers = layersToTransform === null
    ? []
    : typeof layersToTransform === "number"
    ? [layersToTransform]
    : layersToTransform;
  const layerNumber = layerNumbering(config.layersPattern);
  return {
    excluded(path) {
      const out = exclude
        ? exclude.test(path)
        : Array.isArray(excludeModules) && excludeModules.some((e) => isPathOrEnd(e, path));
      if (out) return "excludeModules";
      return saved.some((expression) => expression.test(path)) ? "modulesToSave" : undefined;
    },
    names: (name, path) => target ? target.test(path) : isPathOrEnd(name, path),
    inLayers(name, path) {
      if (target || name === path || layers.length === 0) return true;
      const layer = layerNumber(path);
      return layer !== null && layers.includes(layer);
    },
  };
}

/**
 * How to find the number of a module's layer, where a config names the lists that hold layers and
 * where it does not.
 */
export function layerNumbering(
  layersPattern: TargetConfig["layersPattern"],
): (path: string) => number | null {
  const patterns = layersPattern?.length
    ? typeof layersPattern === "string" ? [layersPattern] : layersPattern
    : undefined;
  const expressions = patterns
    ? patterns.map((p) => pythonRegExp(`(?:^|.*?\\.)${p}\\.(?P<idx>\\d+)\\..*`))
    : [pythonRegExp(".*?\\.[^.]*\\.(?P<idx>\\d+)\\..*")];
  return (path) => {
    for (const expression of expressions) {
      const index = expression.exec(path)?.groups?.idx;
      if (index !== undefined) return Number(index);
    }
    return null;
  };
}

/** Whether a name is the path, or its last parts. */
export function isPathOrEnd(name: string, path: string): boolean {
  return path === name || path.endsWith(`.${name}`);
}

/** The last parts of a path, from the last one alone to all of them. */
export function endingsOf(path: string): readonly string[] {
  const endings: string[] = [];
  for (let at = path.lastIndexOf("."); at >= 0; at = path.lastIndexOf(".", at - 1)) {
    endings.push(path.slice(at + 1));
    if (at === 0) break;
  }
  return [...endings, path];
}
