/**
 * Which modules an adapter saves as a whole, and which of its parameters are copies.
 *
 * @module
 */
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { modulesOf } from "../plan/module-tree.ts";
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
  const tied = [...adapter.parameters.keys()]
    .filter((name) => name.endsWith(".weight") && !isInside(name, named))
    .map((name) => name.slice(0, name.lastIndexOf(".")));
  const all = new Set([...named, ...tied]);
  return paths.filter((path) => all.has(path));
}

/**
 * The trained tensors that stand beside parameters of the base as copies, each once: those of saved
 * modules. The others, biases, take the place of the base's own.
 */
export function savedCopies(base: ModelGraph, adapter: Adapter): ReadonlySet<Tensor> {
  const saved = savedModules(base, adapter);
  const copies = [...adapter.parameters].filter(([name]) => isInside(name, saved));
  return new Set(copies.map(([, tensor]) => tensor));
}

function isInside(name: string, modules: readonly string[]): boolean {
  return modules.some((path) => name.startsWith(`${path}.`));
}
