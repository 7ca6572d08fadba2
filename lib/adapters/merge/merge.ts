/**
 * `mergeAdapter` and `mergeAndUnload`: adapters written into the weights of a model.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../../errors.ts";
import { shareTokenizer } from "../../io/model-tokenizer.ts";
import {
  type ModelGraph,
  parameterOf,
  resolveTied,
  siteAt,
  withParameters,
} from "../../model/model-graph.ts";
import { biasName, weightName } from "../../model/site.ts";
import { isMergeable } from "../../methods/site-rule.ts";
import { BOOLEAN, checkOptions, NAMES, oneOf } from "../../options.ts";
import { castTensor } from "../../tensor/convert.ts";
import { isWeightType, type WeightType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import {
  type ChangedParameter,
  checkTolerance,
  type MergeCertificate,
  mergeCertificate,
  type MergeTolerance,
} from "./merge-certificate.ts";
import { mergeSite, replacedParameter, siteChange } from "./merge-site.ts";
import {
  adaptedParameters,
  parameterPart,
  type Part,
  partsOfKind,
  single,
  sitePart,
  tokensPart,
} from "../parts.ts";
import { type Adapter, checkPeft, type PeftModel, pristineBase } from "../peft-model.ts";
import { moduleOf, tiedToEmbedding } from "../plan/module-tree.ts";
import { pristine, setAdapter } from "../select.ts";

/** How to merge. */
export interface MergeOptions {
  /** Names of the adapters to merge, in order; the active ones by default. */
  readonly adapterNames?: readonly string[];
  /**
   * Type of the merged weights, f32 by default, as what an adapter adds is often too small for 16
   * bits. `mergeAndUnload` gives the type that is asked for to all plain weights; a model that was
   * merged without one is saved in the base's, as by PEFT. A certificate tells what a type loses.
   */
  readonly dtype?: "f32" | "f16" | "bf16";
  /** Whether the merged weights are computed at once and compared with what they should be. */
  readonly certificate?: false;
}

/** How to merge with a certificate. */
export interface CertifiedMergeOptions extends Omit<MergeOptions, "certificate"> {
  /** Whether the merged weights are computed at once and compared with what they should be. */
  readonly certificate: true;
  /**
   * How far a layer may be from the exact sum; a number stands for `{ relativeFrobenius }`. No limit
   * by default.
   */
  readonly tolerance?: number | MergeTolerance;
}

/** A merged model and how exact it is. */
export interface CertifiedMerge<M> {
  /** The merged model. */
  readonly model: M;
  /** How far its weights are from what they should be. */
  readonly certificate: MergeCertificate;
}

type AnyMergeOptions = MergeOptions | CertifiedMergeOptions;

/**
 * A base model that gives what the model with its adapters gives. The model and its own base stay
 * as they are, and weights that no adapter touches are shared, unless a `dtype` is asked for. Merged
 * weights are computed on the model's device when they are first needed. Block-quantized ones are
 * merged dequantized.
 *
 * Where only one of two tied weights changes, or each in its own way, the merged model has both, and
 * its config says so (`tie_word_embeddings: false`). Adapters that are merged already
 * ({@link mergeAdapter}) are merged before the others.
 *
 * With `certificate: true` the weights are computed at once, layer by layer, and compared with the
 * exact sum of base and delta; the model then comes with a {@link MergeCertificate}.
 *
 * @param model A model with adapters.
 * @throws {UnsupportedError} where a method, or what an adapter holds, cannot be merged.
 * @throws {ValueError} where there is nothing to merge; with `certificate`, `MERGE_TOLERANCE` where a
 * layer is farther from the exact sum than `tolerance` allows, and `MERGE_NOT_FINITE` for weights
 * that are infinite or NaN.
 *
 * @example
 * ```ts
 * import { forward, getPeftModel, loraConfig, mergeAndUnload, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const merged = mergeAndUnload(model);
 * const { logits } = await forward(merged, { inputIds: [[1, 2, 3]] });
 * console.log(merged.type, logits.shape); // model [1, 3, 96]
 * ```
 *
 * @example With a certificate
 * ```ts
 * import { getPeftModel, loraConfig, mergeAndUnload, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const { model: merged, certificate } = await mergeAndUnload(model, {
 *   certificate: true,
 *   tolerance: { relativeFrobenius: 1e-3 },
 * });
 * console.log(merged.type, certificate.layers.length, certificate.relativeFrobenius < 1e-3);
 * // model 4 true
 * ```
 */
export function mergeAndUnload(model: PeftModel, options?: MergeOptions): ModelGraph;
/** As above, with a certificate. */
export function mergeAndUnload(
  model: PeftModel,
  options: CertifiedMergeOptions,
): Promise<CertifiedMerge<ModelGraph>>;
export function mergeAndUnload(
  model: PeftModel,
  options: AnyMergeOptions = {},
): ModelGraph | Promise<CertifiedMerge<ModelGraph>> {
  const merge = () => {
    const adapters = checkMerge(model, options, "mergeAndUnload");
    const { dtype = "f32" } = options;
    const { base, changed } = mergeInto(model, adapters, dtype);
    const merged = options.dtype ? withType(base, dtype) : base;
    return { model: { ...merged, source: null }, adapters, changed, dtype };
  };
  return options?.certificate ? certified(merge, options) : merge().model;
}

/** A model whose plain weights all have one type. */
function withType(base: ModelGraph, dtype: WeightType): ModelGraph {
  const parameters = new Map([...base.parameters].map(([name, tensor]) => [
    name,
    isWeightType(tensor.dtype) ? castTensor(tensor, dtype) : tensor,
  ]));
  return { ...base, parameters, dtype };
}

/**
 * The model with adapters written into the weights of its base, where they cost nothing any more.
 * The adapters stay part of the model: {@link unmergeAdapter} takes them out again, and so do
 * `setAdapter`, `disableAdapters` and `deleteAdapter`.
 *
 * Adapters that are active and not merged take part on top of the merged ones. What is merged
 * already stays so: naming it again changes nothing, and further adapters are merged after it, all of
 * them anew from the unmerged base, so that nothing is rounded twice.
 *
 * @param model A model with adapters.
 * @throws {UnsupportedError} where a method, or what an adapter holds, cannot be merged.
 * @throws {ValueError} where there is nothing to merge, and where an adapter that stays active
 * replaces what merging changes; with `certificate` as {@link mergeAndUnload}.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, mergeAdapter, tinyModel, unmergeAdapter } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const merged = mergeAdapter(model);
 * console.log(merged.merged?.names, unmergeAdapter(merged).base === base); // ["default"] true
 * ```
 */
export function mergeAdapter(model: PeftModel, options?: MergeOptions): PeftModel;
/** As above, with a certificate. */
export function mergeAdapter(
  model: PeftModel,
  options: CertifiedMergeOptions,
): Promise<CertifiedMerge<PeftModel>>;
export function mergeAdapter(
  model: PeftModel,
  options: AnyMergeOptions = {},
): PeftModel | Promise<CertifiedMerge<PeftModel>> {
  const merge = () => {
    const adapters = checkMerge(model, options, "mergeAdapter");
    const { dtype = "f32" } = options;
    if (!model.enabled) throw nothingToMerge("the adapters are disabled");
    const names = adapters.map(({ name }) => name);
    const { base, changed } = mergeInto(model, adapters, dtype);
    checkRemaining({ ...model, base }, names, changed);
    const merged = { names, base: pristineBase(model) };
    return { model: { ...model, base, merged }, adapters, changed, dtype };
  };
  if (options?.certificate) return certified(merge, options);
  checkPeft(model);
  const already = model.merged?.names ?? [];
  const asked = options?.adapterNames ?? model.active;
  const done = already.length > 0 && options?.dtype === undefined && Array.isArray(asked) &&
    asked.every((name) => already.includes(name));
  return done ? model : merge().model;
}

/**
 * The model with all merged adapters taken out of its base again, which is the one that it was, bit
 * for bit. A model without merged adapters stays as it is.
 *
 * @param model A model with adapters.
 * @throws {ValueError} where the model has no adapters.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, mergeAdapter, tinyModel, unmergeAdapter } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const again = unmergeAdapter(mergeAdapter(model, { dtype: "bf16" }));
 * console.log(again.merged, again.base === base); // undefined true
 * ```
 */
export function unmergeAdapter(model: PeftModel): PeftModel {
  checkPeft(model);
  return pristine(model);
}

/**
 * The base of a model, without its adapters, also where some are merged.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, tinyModel, unload } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * console.log(unload(getPeftModel(base, loraConfig())) === base); // true
 * ```
 */
export function unload(model: PeftModel): ModelGraph {
  checkPeft(model);
  return pristineBase(model);
}

/**
 * Refuses an adapter whose method cannot be merged.
 *
 * @throws {UnsupportedError} `MERGE_METHOD`.
 */
export function checkMergeable(adapter: Adapter): void {
  if (isMergeable(adapter)) return;
  const { name, config: { peftType } } = adapter;
  throw new UnsupportedError(
    "MERGE_METHOD",
    `${peftType} cannot be merged into weights (adapter ${JSON.stringify(name)}). ` +
      `Keep the adapter, or merge others by adapterNames.`,
    { peftType, adapter: name },
  );
}

/** The adapters that a merge is to write into the base, those that are merged already first. */
function checkMerge(model: PeftModel, options: AnyMergeOptions, of: string): readonly Adapter[] {
  checkPeft(model);
  checkOptions(options as CertifiedMergeOptions, {
    adapterNames: NAMES,
    dtype: oneOf(["f32", "f16", "bf16"]),
    certificate: BOOLEAN,
    tolerance: null,
  }, { code: "MERGE_OPTION", of });
  if ("tolerance" in options && options.tolerance !== undefined) {
    checkTolerance(options.tolerance);
    if (!options.certificate) {
      throw new ValueError(
        "MERGE_OPTION",
        `${of} compares with a tolerance only where it makes a certificate: pass certificate: true as well.`,
      );
    }
  }
  const already = model.merged?.names ?? [];
  const asked = options.adapterNames ?? model.active;
  const names = [...already, ...asked.filter((name) => !already.includes(name))];
  if (names.length === 0) {
    throw nothingToMerge(options.adapterNames ? "adapterNames is empty" : "no adapter is active");
  }
  if (!model.enabled && !options.adapterNames) throw nothingToMerge("the adapters are disabled");
  const chosen = setAdapter(model, names);
  const adapters = names.map((name) => chosen.adapters.get(name)!);
  for (const adapter of adapters) checkMergeable(adapter);
  return adapters;
}

function nothingToMerge(why: string): ValueError {
  return new ValueError(
    "NOTHING_TO_MERGE",
    `There is nothing to merge: ${why}. Activate an adapter, name it in adapterNames, or take the base with unload.`,
  );
}

/**
 * Refuses a merge that an adapter which stays active would undo: it replaces a parameter that is
 * being changed.
 */
function checkRemaining(
  merged: PeftModel,
  names: readonly string[],
  changed: readonly ChangedParameter[],
): void {
  const changes = new Set(changed.map(({ name }) => name));
  for (const name of merged.active.filter((name) => !names.includes(name))) {
    const lost = partsOfKind(merged.adapters.get(name)!, "parameter")
      .map(({ place }) => place.name)
      .find((parameter) => changes.has(resolveTied(merged.base, parameter)));
    if (lost === undefined) continue;
    throw new ValueError(
      "ADAPTERS_CLASH",
      `Merging ${names.map((other) => JSON.stringify(other)).join(", ")} changes ${lost}, and ${
        JSON.stringify(name)
      }, which stays active, replaces it (saved modules, biases), so the change would be lost. ` +
        "Merge that adapter as well, or activate others.",
      { adapters: [...names, name], what: lost },
    );
  }
}

async function certified<M>(
  merge: () => {
    readonly model: M;
    readonly adapters: readonly Adapter[];
    readonly changed: readonly ChangedParameter[];
    readonly dtype: WeightType;
  },
  options: AnyMergeOptions,
): Promise<CertifiedMerge<M>> {
  const { model, adapters, changed, dtype } = await Promise.resolve().then(merge);
  const certificate = await mergeCertificate(changed, {
    adapters: adapters.map(({ name }) => name),
    dtype,
    tolerance: (options as CertifiedMergeOptions).tolerance,
  });
  return { model, certificate };
}

/** The base without adapters, with these written into it, and what that changed. */
function mergeInto(
  model: PeftModel,
  adapters: readonly Adapter[],
  dtype: WeightType,
): { readonly base: ModelGraph; readonly changed: readonly ChangedParameter[] } {
  const base = pristineBase(model);
  const changed = new Map<string, ChangedParameter>();
  const change = (name: string, merged: Tensor, delta?: () => Tensor) => {
    const before = parameterOf(base, name);
    const start = replacedParameter(adapters, name) ?? before;
    changed.set(name, { name, before, start, stored: castTensor(merged, dtype), delta });
  };
  for (const adapter of adapters) {
    for (const { place: { name } } of partsOfKind(adapter, "parameter")) {
      change(name, replacedParameter(adapters, name)!);
    }
  }
  const following = new Set(
    [...base.tied].filter(([alias, source]) => follows(adapters, alias, source)).map(([a]) => a),
  );
  const parameters = adapters.flatMap((adapter) => adaptedParameters(adapter, base));
  for (const path of new Set([...base.sites.keys(), ...parameters])) {
    const touched = adapters.some((a) => sitePart(a, path) ?? tokensPart(a, path));
    const site = siteAt(base, path), name = weightName(site);
    if (!touched || following.has(name)) continue;
    if (changed.has(name) && site.kind === "parameter") throw changedTwice(name);
    const of = { model, adapters, site };
    const { weight, bias } = mergeSite(of);
    change(name, weight, () => siteChange(of).weight);
    if (bias) change(biasName(site), bias, () => siteChange(of).bias!);
  }
  const own = new Map<string, Tensor>();
  for (const [alias, source] of base.tied) {
    if (following.has(alias)) changed.delete(alias);
    else if (changed.has(source)) own.set(alias, parameterOf(base, source));
  }
  for (const [name, { stored }] of changed) own.set(name, stored);
  const merged = withParameters(base, own);
  return { base: withOwnTie(merged, base), changed: [...changed.values()] };
}

function changedTwice(name: string): UnsupportedError {
  return new UnsupportedError(
    "MERGE_PARAMETER",
    `${name} is adapted by one adapter as a parameter (targetParameters), and its module by another. ` +
      "Merge them one after the other: mergeAndUnload with adapterNames, and the other loaded onto what that gives.",
    { name },
  );
}

/** Whether a tied parameter changes as what it is tied to does, so that it can stay tied. */
function follows(adapters: readonly Adapter[], alias: string, source: string): boolean {
  const [ours, theirs] = [moduleOf(alias), moduleOf(source)];
  const same = (adapter: Adapter, a: Part | undefined, b: Part | undefined) =>
    a === b || (a && b && single(adapter, a).owner === single(adapter, b).owner);
  const tied = (part: Part | undefined, to: Part | undefined) =>
    part === to ||
    (part !== undefined && Object.values(part.leaves).every(({ tie }) =>
      tie !== undefined && !tie.transposed && tie.part === theirs
    ));
  return adapters.every((adapter) =>
    tied(sitePart(adapter, ours), sitePart(adapter, theirs)) &&
    [alias, source].every((path) => !sitePart(adapter, path)) &&
    same(adapter, tokensPart(adapter, ours), tokensPart(adapter, theirs)) &&
    same(adapter, parameterPart(adapter, alias), parameterPart(adapter, source))
  );
}

/** The model with a config that says that its embeddings are not tied, where they no longer are. */
function withOwnTie(merged: ModelGraph, base: ModelGraph): ModelGraph {
  if (tiedToEmbedding(merged).length === tiedToEmbedding(base).length) return merged;
  const config = { ...base.config, tie_word_embeddings: false };
  shareTokenizer(base.config, config);
  return { ...merged, config };
}
