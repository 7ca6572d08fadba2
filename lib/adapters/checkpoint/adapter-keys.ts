/**
 * The keys under which PEFT saves what an adapter holds.
 *
 * @module
 */
import { isTargetConfig } from "../../methods/config.ts";
import { pythonRegExp } from "../../methods/python-regex.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import { inputEmbedding, outputHead } from "../plan/module-tree.ts";
import type { Adapter } from "../peft-model.ts";
import { EMBEDDING_NAMES } from "../plan/resolve-config.ts";

/** What a key stands for. */
export type KeyTarget =
  /** A leaf of a site. */
  | { readonly kind: "leaf"; readonly path: string; readonly leaf: string }
  /** A leaf of the adapter as a whole, trained or fixed. */
  | { readonly kind: "shared"; readonly leaf: string }
  /** What a file holds in the place of leaves that cannot be read back. */
  | { readonly kind: "derived"; readonly key: string }
  /** A parameter that is trained as a whole. */
  | { readonly kind: "parameter"; readonly name: string }
  /** Rows of an embedding. */
  | { readonly kind: "tokens"; readonly path: string }
  /** A parameter of the base that is only saved along. */
  | { readonly kind: "base"; readonly name: string };

/** What keys of modules start with. */
function keyPrefix({ method }: Adapter): string {
  return method.keyPrefix ?? "base_model.model.";
}

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
  const prefix = keyPrefix(adapter);
  for (const [path, { leaves, tied }] of adapter.sites) {
    const site = base.sites.get(path)!;
    for (const leaf of [...Object.keys(leaves), ...Object.keys(tied ?? {})]) {
      const key = `${prefix}${path}.${adapter.method.keyOf(leaf, site)}`;
      keys.set(key, { kind: "leaf", path, leaf });
    }
  }
  const { method, config } = adapter;
  for (const [leaf, key] of Object.entries(method.sharedKeys?.(config) ?? {})) {
    keys.set(key, { kind: "shared", leaf });
  }
  for (const key of method.derivedTensors?.(config, adapter.shared).keys() ?? []) {
    keys.set(key, { kind: "derived", key });
  }
  for (const name of adapter.parameters.keys()) {
    keys.set(`${prefix}${nameInside(adapter, name)}`, { kind: "parameter", name });
  }
  const owners = new Set<unknown>();
  for (const [path, rows] of adapter.tokens) {
    if (owners.has(rows)) continue;
    owners.add(rows);
    keys.set(`${prefix}${path}.token_adapter.trainable_tokens_delta`, { kind: "tokens", path });
  }
  const named = namesEmbedding(base, adapter);
  for (const [key, target] of optionalKeys(base, adapter)) {
    const wanted = saveEmbeddingLayers === "auto" ? named : saveEmbeddingLayers;
    const brought = saveEmbeddingLayers !== false && adapter.replacements?.has(target.name);
    if (brought || (wanted && (!named || adapter.sites.has(pathOf(target))))) keys.set(key, target);
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
    if (adapter.parameters.has(name) || adapter.tokens.has(path)) continue;
    if (startsFromWeight(adapter, path)) continue;
    keys.set(`${keyPrefix(adapter)}${nameInside(adapter, name)}`, { kind: "base", name });
  }
  return keys;
}

/**
 * Whether a key is that of what an adapter left of a weight that it starts from (PiSSA, OLoRA).
 * PEFT's files hold it where the module is an embedding or a head; it follows from the base.
 */
export function isRemainder(key: string, adapter: Adapter): boolean {
  const start = keyPrefix(adapter), end = ".base_layer.weight";
  return key.startsWith(start) && key.endsWith(end) &&
    startsFromWeight(adapter, key.slice(start.length, -end.length));
}

function startsFromWeight({ sites }: Adapter, path: string): boolean {
  return Object.keys(sites.get(path)?.frozen ?? {}).length > 0;
}

function pathOf({ name }: { readonly name: string }): string {
  return name.slice(0, name.lastIndexOf("."));
}

/** A parameter's name where PEFT has wrapped adapted modules: theirs move into `base_layer`. */
function nameInside(adapter: Adapter, name: string): string {
  const at = name.lastIndexOf(".");
  const path = name.slice(0, at);
  return adapter.sites.has(path) ? `${path}.base_layer${name.slice(at)}` : name;
}

/** Whether `targetModules` names an embedding in the way that makes PEFT save its weights too. */
function namesEmbedding(base: ModelGraph, { config }: Adapter): boolean {
  if (!isTargetConfig(config) || config.trainableTokenIndices) return false;
  const { targetModules } = config;
  if (typeof targetModules !== "string") {
    return targetModules?.some((name) => EMBEDDING_NAMES.includes(name)) ?? false;
  }
  const expression = pythonRegExp(targetModules);
  return [...base.sites.keys()].some((path) =>
    EMBEDDING_NAMES.includes(path.slice(path.lastIndexOf(".") + 1)) && expression.test(path)
  );
}
