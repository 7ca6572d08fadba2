/**
 * What a config means for one model: defaults, `all-linear` and tied weights written out, as PEFT
 * saves them.
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import type { TargetConfig } from "../../methods/config.ts";
import type { PeftMethod } from "../../methods/method.ts";
import { pythonRegExp } from "../../methods/python-regex.ts";
import { inputEmbedding, type ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import { createMatcher, endingsOf } from "./match-modules.ts";
import { type Module, modulesOf, tiedToEmbedding } from "./module-tree.ts";

/** A config whose fields stand for this model, and what they ask to tie. */
export interface ResolvedConfig {
  /** The config that the adapter carries and saves. */
  readonly config: TargetConfig;
  /** Modules that are adapted by the transposed leaves of the input embedding. */
  readonly tiedTargets: readonly string[];
  /** Modules that are saved with, and share, the input embedding. */
  readonly tiedSaved: readonly string[];
  /** What the config asks for in vain. */
  readonly notes: readonly string[];
}

/** Lists of this length and longer are condensed to endings. */
const CONDENSE_FROM = 20;

/** Names under which PEFT recognises an embedding. */
export const EMBEDDING_NAMES: readonly string[] = ["embed_tokens", "lm_head"];

/**
 * Resolves the fields of a config that depend on the model.
 *
 * @param model The base.
 * @param options A complete config and its method.
 * @throws {ConfigError} where no targets are given and none are usual for this kind of model.
 */
export function resolveConfig(
  model: ModelGraph,
  options: { readonly config: TargetConfig; readonly method: PeftMethod },
): ResolvedConfig {
  const tied = resolveTying(model, options.config);
  const { config } = tied;
  let targets = config.targetModules ?? defaultTargets(model, options);
  if (isAllLinear(targets)) {
    targets = [...model.sites.values()]
      .filter((s) => (s.kind === "linear" || s.kind === "conv1d") && !s.head)
      .map((s) => s.path);
  }
  const mayCondense = !options.method.config.keepsTargets && targets.length >= CONDENSE_FROM;
  if (typeof targets !== "string" && mayCondense) {
    const condensed = condenseTargets(targets, modulesOf(model));
    if (condensed.length < new Set(targets).size) targets = condensed;
  }
  const resolved = { ...config, targetModules: targets };
  // What a method completes may depend on the targets.
  const complete = options.method.config.fit?.(resolved, model) ?? resolved;
  const { targetModules: found } = complete, { names } = createMatcher(complete);
  const follow = options.method.config.followsTies &&
    (typeof found === "string" ? [found] : found)
      .some((name: string) => names(name, inputEmbedding(model)?.path ?? ""));
  return { ...tied, config: complete, ...(follow && { tiedTargets: tiedToEmbedding(model) }) };
}

/** Whether targets stand for all linear layers. */
export function isAllLinear(targets: TargetConfig["targetModules"]): boolean {
  return typeof targets === "string" && targets.toLowerCase() === "all-linear";
}

function defaultTargets(
  model: ModelGraph,
  { config, method }: { readonly config: TargetConfig; readonly method: PeftMethod },
): readonly string[] | string {
  const type = model.config.model_type as string;
  const targets = method.config.targets?.[type] ?? method.config.otherTargets;
  if (!targets && config.targetParameters?.length) return [];
  if (!targets) {
    throw new ConfigError(
      "CONFIG_NO_TARGETS",
      `The config has no targetModules, and ${method.config.peftType} has no usual ones for the model_type ${
        JSON.stringify(type)
      }. Set targetModules, for example to "all-linear".`,
      { modelType: type },
    );
  }
  return targets;
}

/**
 * `ensureWeightTying`: which tied modules follow the input embedding, and the config as PEFT
 * rewrites it for that.
 */
function resolveTying(model: ModelGraph, config: TargetConfig): ResolvedConfig {
  const nothing = { config, tiedTargets: [], tiedSaved: [], notes: [] };
  if (!config.ensureWeightTying) return nothing;
  const embedding = inputEmbedding(model)?.path;
  const tied = tiedToEmbedding(model);
  if (!embedding || tied.length === 0) {
    return {
      ...nothing,
      notes: ["ensureWeightTying has no effect: the model has no tied weights."],
    };
  }
  const lastName = (path: string) => path.slice(path.lastIndexOf(".") + 1);
  const isEmbedding = (name: string) => EMBEDDING_NAMES.includes(lastName(name));
  const covers = (name: string) => {
    const expression = pythonRegExp(`(^|.*\\.)${name}($|\\..*)`);
    return tied.some((path) => expression.test(path));
  };
  const { modulesToSave, targetModules } = config;
  if (modulesToSave?.some(isEmbedding)) {
    const kept = modulesToSave.filter((name) => !covers(name));
    const saved = kept.includes(embedding) ? kept : [...kept, embedding];
    return { ...nothing, config: { ...config, modulesToSave: saved }, tiedSaved: tied };
  }
  if (typeof targetModules === "string") {
    const expression = pythonRegExp(targetModules);
    if (EMBEDDING_NAMES.some((name) => expression.test(name))) {
      const tail = `|^${embedding.replace(/[.*+?^${}()|[\]\\-]/g, "\\$&")}$)`;
      // A config that was saved with its tie already names the embedding.
      const targets = targetModules.endsWith(tail) ? targetModules : `(?:${targetModules}${tail}`;
      return { ...nothing, config: { ...config, targetModules: targets }, tiedTargets: tied };
    }
  } else if (targetModules?.some(isEmbedding)) {
    // By the name of gpt2's embedding alone the tie would not be found again on loading.
    const found = isEmbedding(embedding);
    const targets = new Set(
      [...targetModules, embedding].filter((name) => !found || !covers(name)),
    );
    return { ...nothing, config: { ...config, targetModules: [...targets] }, tiedTargets: tied };
  }
  if (config.trainableTokenIndices) return nothing;
  return {
    ...nothing,
    notes: [
      "ensureWeightTying has no effect: no tied module is among targetModules or modulesToSave.",
    ],
  };
}

/**
 * The shortest endings that name all targets and nothing else.
 *
 * @param targets Full paths or endings.
 * @param modules All modules by path.
 */
export function condenseTargets(
  targets: readonly string[],
  modules: ReadonlyMap<string, Pick<Module, "endings">>,
): readonly string[] {
  const wanted = new Set(targets);
  const others = new Set(
    [...modules.values()].filter(({ endings }) => !endings.some((ending) => wanted.has(ending)))
      .flatMap(({ endings }) => endings),
  );
  const chosen = new Set<string>();
  const items = [...wanted].map((path) => ({
    path,
    all: modules.get(path)?.endings ?? endingsOf(path),
  }));
  items.sort((a, b) => compareLists(a.all, b.all));
  for (const { path, all } of items) {
    if (all.some((ending) => ending !== path && chosen.has(ending))) continue;
    const ending = all.find((e) => !chosen.has(e) && !others.has(e));
    if (ending !== undefined) chosen.add(ending);
  }
  return [...chosen];
}

function compareLists(a: readonly string[], b: readonly string[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return a.length - b.length;
}

/**
 * The config with `fanInFanOut` as the adapted layers are stored, where the method has that field.
 * On a mix the last layer counts, as in PEFT; each layer is adapted as it is stored whatever the
 * field says.
 */
export function correctFanInFanOut(config: TargetConfig, sites: readonly Site[]): TargetConfig {
  if (!("fanInFanOut" in config)) return config;
  const last = sites.findLast((s) => s.kind === "linear" || s.kind === "conv1d");
  return last ? { ...config, fanInFanOut: last.kind === "conv1d" } : config;
}
