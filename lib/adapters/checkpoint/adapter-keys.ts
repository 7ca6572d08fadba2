/**
 * The keys under which PEFT saves what an adapter holds.
 *
 * @module
 */
import { isTargetConfig } from "../../methods/config.ts";
import { pythonRegExp } from "../../methods/python-regex.ts";
import { ruleAt } from "../../methods/site-rule.ts";
import { inputEmbedding, type ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import { parameterKey } from "../inject.ts";
import { keyStart } from "../lazy-leaves.ts";
import { adaptedPaths, leavesOf, parameterPart, sitePart, tokensPart } from "../parts.ts";
import type { Adapter } from "../peft-model.ts";
import { moduleOf, outputHead } from "../plan/module-tree.ts";
import { EMBEDDING_NAMES } from "../plan/resolve-config.ts";

/** What a key stands for. */
export type KeyTarget =
  /** A leaf of a part. */
  | { readonly kind: "leaf"; readonly part: string; readonly leaf: string }
  /** A parameter of the base that is only saved along. */
  | { readonly kind: "base"; readonly name: string };

/**
 * The keys of an adapter.
 *
 * @param base The base.
 * @param adapter An adapter on it.
 * @param saveEmbeddingLayers Whether the weights of the input embedding and the output head are
 * saved along; `"auto"` as PEFT decides.
 */
export function adapterKeys(
  base: ModelGraph,
  adapter: Adapter,
  saveEmbeddingLayers: boolean | "auto",
): ReadonlyMap<string, KeyTarget> {
  const keys = new Map<string, KeyTarget>();
  for (const { part: { place }, id, name, leaf: { key, kind } } of leavesOf(adapter)) {
    const isBrought = place.kind === "parameter" && kind === "fixed";
    if (key !== null && !isBrought) keys.set(key, { kind: "leaf", part: id, leaf: name });
  }
  const named = namesEmbedding(base, adapter);
  for (const [key, target] of optionalKeys(base, adapter)) {
    const wanted = saveEmbeddingLayers === "auto" ? named : saveEmbeddingLayers;
    const brought = saveEmbeddingLayers !== false && parameterPart(adapter, target.name);
    if (brought || (wanted && (!named || sitePart(adapter, moduleOf(target.name))))) {
      keys.set(key, target);
    }
  }
  return keys;
}

/**
 * Keys of weights of the base that a file may hold beside the adapter: of the input embedding and
 * the output head, but for one that the adapter itself starts from.
 */
export function optionalKeys(
  base: ModelGraph,
  adapter: Adapter,
): ReadonlyMap<string, KeyTarget & { readonly kind: "base" }> {
  const keys = new Map<string, KeyTarget & { readonly kind: "base" }>();
  const embeddings = [inputEmbedding(base), outputHead(base)].filter((s): s is Site => !!s);
  for (const { path } of embeddings) {
    const name = `${path}.weight`;
    if (parameterPart(adapter, name)?.leaves[""].kind === "trained") continue;
    if (tokensPart(adapter, path) || startsFromWeight(adapter, path)) continue;
    keys.set(parameterKey(adapter, new Set(adaptedPaths(adapter)), name), { kind: "base", name });
  }
  return keys;
}

/**
 * Whether a key is that of what an adapter left of a weight that it starts from (PiSSA, OLoRA).
 * PEFT's files hold it where the module is an embedding or a head; it follows from the base.
 */
export function isRemainder(key: string, adapter: Adapter): boolean {
  const start = keyStart(adapter.method), end = ".base_layer.weight";
  return key.startsWith(start) && key.endsWith(end) &&
    startsFromWeight(adapter, key.slice(start.length, -end.length));
}

function startsFromWeight(adapter: Adapter, path: string): boolean {
  const leaves = Object.values(sitePart(adapter, path)?.leaves ?? {});
  return leaves.some(({ takenOut }) => takenOut);
}

/** Whether `targetModules` names an embedding in the way that makes PEFT save its weights too. */
function namesEmbedding(base: ModelGraph, adapter: Adapter): boolean {
  const { config } = adapter, rule = ruleAt(adapter, "embedding");
  if (!isTargetConfig(config) || config.trainableTokenIndices) return false;
  // Who trains some rows has no use for the others.
  if (rule && "replaces" in rule && rule.rows) return false;
  const { targetModules } = config;
  if (typeof targetModules !== "string") {
    return targetModules?.some((name) => EMBEDDING_NAMES.includes(name)) ?? false;
  }
  const expression = pythonRegExp(targetModules);
  return [...base.sites.keys()].some((path) =>
    EMBEDDING_NAMES.includes(path.slice(path.lastIndexOf(".") + 1)) && expression.test(path)
  );
}
