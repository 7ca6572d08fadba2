/**
 * Which modules an adapter saves as a whole, and which of its parameters are copies.
 *
 * @module
 */
import type { ModelGraph } from "../../model/model-graph.ts";
import { moduleOf, modulesOf } from "../plan/module-tree.ts";
import { trainedParameters } from "../parts.ts";
import type { Adapter } from "../peft-model.ts";

/** The entries of a config's `modulesToSave`; empty for methods that have no such field. */
export function savedNames({ config }: Adapter): readonly string[] {
  return (config as { readonly modulesToSave?: readonly string[] | null }).modulesToSave ?? [];
}

/**
 * Paths of the modules that an adapter saves as a whole, in the model's order: those that
 * `modulesToSave` names, and those that stay tied to one of them.
 */
export function savedModules(base: ModelGraph, adapter: Adapter): readonly string[] {
  const names = savedNames(adapter);
  if (names.length === 0) return [];
  const paths = [...modulesOf(base).keys()];
  const named = paths.filter((path) => names.some((name) => path.endsWith(name)));
  // Of the parameters outside of named modules, biases are trained in place; a weight is tied.
  const tied = trainedParameters(adapter)
    .filter((name) => name.endsWith(".weight") && !isInside(name, named))
    .map(moduleOf);
  const all = new Set([...named, ...tied]);
  return paths.filter((path) => all.has(path));
}

/**
 * Names of the parameters that an adapter trains as copies beside the base's own, those of saved
 * modules. The others, biases, take the place of the base's own.
 */
export function savedCopies(base: ModelGraph, adapter: Adapter): ReadonlySet<string> {
  const saved = savedModules(base, adapter);
  return new Set(trainedParameters(adapter).filter((name) => isInside(name, saved)));
}

function isInside(name: string, modules: readonly string[]): boolean {
  return modules.some((path) => name.startsWith(`${path}.`));
}
