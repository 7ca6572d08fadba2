/**
 * `convertToLora`: adapters of other methods as LoRAs.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../../errors.ts";
import { isTargetConfig, type PeftConfig } from "../../methods/config.ts";
import {
  firstRows,
  type FlatMatrix,
  type LeadingSvd,
  leadingSvd,
  norm,
} from "../../methods/linalg.ts";
import { type LoraConfig, loraConfig } from "../../methods/lora/lora-config.ts";
import {
  factorLeaves,
  type Factors,
  leadingFactors,
  outIn,
  sum,
} from "../../methods/lora/lora-factors.ts";
import { isConvertible } from "../../methods/site-rule.ts";
import { type MethodRegistry, REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import { checkOptions, FUNCTION, show } from "../../options.ts";
import type { SiteKind } from "../../model/site.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import { createAdapter, emptyModel, withNewAdapter } from "../inject.ts";
import { loadAdapter } from "../checkpoint/load.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";
import { planAdapter } from "../plan/plan.ts";
import type { AdapterParts } from "../checkpoint/read-adapter.ts";
import { savePretrained } from "../checkpoint/save.ts";
import {
  adaptedParameters,
  adaptedPaths,
  type Part,
  partsOf,
  partsOfKind,
  withContents,
} from "../parts.ts";
import { adapterOf } from "../select.ts";
import { deltaAt } from "../merge/delta-weight.ts";
import { getAdapterStateDict } from "../checkpoint/state-dict.ts";

/** How to convert an adapter. */
export interface ConvertOptions extends RegistryOptions {
  /**
   * The rank of the LoRA. A whole number is the rank at every site. A number between 0 and 1 is a
   * share of the energy (the sum of the squares of the singular values), and each site gets the
   * smallest rank that keeps it.
   */
  readonly rank: number;
  /** Which adapter; `"default"` by default. */
  readonly adapterName?: string;
  /** Is told after each site. */
  readonly onProgress?: (progress: ConvertProgress) => void;
}

/** How far a conversion has come. */
export interface ConvertProgress {
  /** The site that was converted. */
  readonly path: string;
  /** Sites so far. */
  readonly done: number;
  /** Sites in all. */
  readonly total: number;
}

/** An adapter as a LoRA, for `loadAdapter`. */
export interface ConvertedLora extends AdapterParts {
  /** Its config. Scales are 1: what the adapter was scaled by is in the factors. */
  readonly config: LoraConfig;
  /** What became of each site. */
  readonly sites: readonly ConvertedSite[];
}

/** What became of one site. */
export interface ConvertedSite {
  /** Its module path. */
  readonly path: string;
  /** The rank that it got. */
  readonly rank: number;
  /** What the rank left out: ‖Δ − B·A‖ / ‖Δ‖ in the Frobenius norm; 0 where Δ is zero. */
  readonly relativeError: number;
}

/**
 * Whether {@link convertToLora} can make a LoRA of an adapter: whether what its method does to
 * modules is a change of their weights, for which a product of two matrices can stand. PEFT converts
 * fewer: those that add a delta, of linear layers.
 *
 * @param model A model with adapters.
 * @param adapterName Which one.
 * @throws {ValueError} where there is none of this name.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, supportsLoraConversion, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * console.log(supportsLoraConversion(getPeftModel(base, loraConfig()))); // true
 * ```
 */
export function supportsLoraConversion(model: PeftModel, adapterName = "default"): boolean {
  const adapter = adapterOf(model, adapterName);
  const base = pristineBase(model), paths = adaptedPaths(adapter);
  const sites = paths.map((path) => base.sites.get(path)!);
  return isConvertible(adapter) && paths.length > 0 &&
    adaptedParameters(adapter, base).length === 0 &&
    sites.every(({ kind, conv }) => KINDS.includes(kind) && (conv?.groups ?? 1) === 1);
}

/** Kinds of modules whose weight a LoRA changes by one product. */
const KINDS: readonly SiteKind[] = ["linear", "conv1d", "conv", "embedding"];

/**
 * An adapter as a LoRA that does the same as nearly as its rank allows: of what it adds to each
 * weight, or of how the weight differs that it makes of the base's, the leading part of the singular
 * value decomposition. Modules that are saved whole and trained token rows come along. Where biases
 * change with the weights, as with IA3 and behind its layers' outputs, the LoRA has biases of its own
 * (`loraBias`).
 *
 * @param model A model with adapters; it stays as it is.
 * @param options The rank, and which adapter.
 * @returns A config and tensors, which `loadAdapter` puts onto a base, and how well they fit.
 * @throws {UnsupportedError} where the method changes no weights; see {@link supportsLoraConversion}.
 * @throws {ValueError} for a rank that is neither a whole number above 0 nor a share, or above what
 * a site can have; and for adapters that train biases.
 *
 * @example
 * ```ts
 * import { convertToLora, getPeftModel, loadAdapter, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 8, initLoraWeights: false, useDora: true }));
 * const parts = await convertToLora(model, { rank: 0.99 });
 * console.log(parts.sites[0].path, parts.sites[0].rank, parts.sites[0].relativeError < 0.1);
 * const plain = await loadAdapter(base, parts);
 * ```
 */
export async function convertToLora(
  model: PeftModel,
  options: ConvertOptions,
): Promise<ConvertedLora> {
  checkOptions(options, {
    rank: null,
    adapterName: null,
    onProgress: FUNCTION,
    registry: REGISTRY,
  }, { code: "CONVERT_OPTION", of: "convertToLora" });
  const { rank, adapterName = "default", registry } = options;
  const adapter = adapterOf(model, adapterName);
  checkRank(rank);
  checkConvertible(model, adapter);
  const base = pristineBase(model);
  const sites = new Map<string, Fitted>(), biases = new Map<string, Tensor>();
  const paths = adaptedPaths(adapter);
  for (const path of paths) {
    const site = base.sites.get(path)!;
    const { weight, bias } = deltaAt(model, path, { adapterName });
    const delta = outIn(site, await toFloat32(weight));
    sites.set(path, factorize(delta, { rank, path }));
    if (bias) biases.set(path, tensor(await toFloat32(bias), { shape: bias.shape }));
    options.onProgress?.({ path, done: sites.size, total: paths.length });
  }
  const loraBias = biases.size > 0;
  const config = convertedConfig(model, adapter, { rank, sites, registry, loraBias });
  const made = createAdapter(base, config, {
    adapterName,
    registry,
    loaded: true,
    allowUnmatched: true,
  });
  const converted: Adapter = {
    ...made,
    parts: partsOf([
      ...partsOfKind(made, "site").map((part): Part => {
        const { path } = part.place;
        const factors = sites.get(path)!, site = base.sites.get(path)!;
        const none = () => tensor(new Float32Array(site.outFeatures));
        return withContents(part, {
          ...factorLeaves(site, factors, factors.a.rows),
          ...(loraBias && { lora_bias: biases.get(path) ?? none() }),
        });
      }),
      ...partsOfKind(adapter, "parameter", "tokens"),
    ]),
  };
  const holder = withNewAdapter(emptyModel(base), converted, { active: true, trainable: false });
  return {
    config: made.config as LoraConfig,
    tensors: getAdapterStateDict(holder, adapterName),
    sites: [...sites].map(([path, { a, relativeError }]) => ({
      path,
      rank: a.rows,
      relativeError,
    })),
  };
}

/**
 * Converts an adapter with {@link convertToLora} and saves it as `savePretrained` does, into the
 * folder itself whatever its name.
 *
 * @param model A model with adapters; it stays as it is.
 * @param folder Where to save; made where it does not exist.
 * @param options The rank, and which adapter.
 * @returns What became of each site.
 * @throws {UnsupportedError} as {@link convertToLora}.
 * @throws {ValueError} as {@link convertToLora}.
 * @throws {FileError} where writing fails.
 *
 * @example
 * ```ts
 * import { getPeftModel, loadAdapter, loraConfig, saveAsLora, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 8, initLoraWeights: false }));
 * const folder = await Deno.makeTempDir();
 * const sites = await saveAsLora(model, folder, { rank: 4 });
 * console.log(sites[0].rank, (await loadAdapter(base, folder)).active); // 4 ["default"]
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function saveAsLora(
  model: PeftModel,
  folder: string | URL,
  options: ConvertOptions,
): Promise<readonly ConvertedSite[]> {
  const parts = await convertToLora(model, options);
  const { registry } = options;
  const plain = await loadAdapter(pristineBase(model), parts, { registry });
  await savePretrained(plain, folder, { registry });
  return parts.sites;
}

function checkRank(rank: unknown): asserts rank is number {
  if (typeof rank === "number" && rank > 0 && (rank < 1 || Number.isSafeInteger(rank))) return;
  throw new ValueError(
    "CONVERT_RANK",
    `The rank of a LoRA is a whole number above 0, or a number between 0 and 1 as the share of the energy to keep; found ${
      show(rank)
    }.`,
    { rank },
  );
}

function checkConvertible(model: PeftModel, adapter: Adapter): void {
  const { name, config } = adapter;
  const called = JSON.stringify(name);
  if (!supportsLoraConversion(model, name)) {
    throw new UnsupportedError(
      "CONVERT_METHOD",
      `The adapter ${called} is of the method ${config.peftType}, which does not support LoRA conversion: ` +
        "what it does is no change of weights that a LoRA can stand for. Keep it as it is; supportsLoraConversion tells beforehand.",
      { adapter: name, peftType: config.peftType },
    );
  }
  const { bias = "none", loraBias = false } = config as PeftConfig & Partial<LoraConfig>;
  if (bias !== "none" || loraBias) {
    throw new ValueError(
      "CONVERT_BIAS",
      `The adapter ${called} trains biases (${
        loraBias ? "loraBias" : `bias ${JSON.stringify(bias)}`
      }), which convertToLora does not support, as in PEFT. Merge it instead, or train one without.`,
      { adapter: name },
    );
  }
}

/** The leading part of what an adapter adds to a weight, and what it leaves out. */
interface Fitted extends Factors {
  readonly relativeError: number;
}

function factorize(
  delta: FlatMatrix,
  of: { readonly rank: number; readonly path: string },
): Fitted {
  const { rank, path } = of;
  const full = Math.min(delta.rows, delta.columns);
  if (rank > full) {
    throw new ValueError(
      "CONVERT_RANK",
      `The rank ${rank} is larger than ${path} can have: what is added to it is [${delta.rows}, ${delta.columns}], so that ${full} is exact. Choose a lower one.`,
      { rank, path, largest: full },
    );
  }
  const energy = norm(delta.data) ** 2;
  if (!Number.isFinite(energy)) {
    throw new ValueError(
      "CONVERT_NOT_FINITE",
      `What the adapter adds to ${path} is not finite (NaN or infinity), so it cannot be decomposed. The adapter is broken; look at its leaves.`,
      { path },
    );
  }
  const svd = rank < 1 ? shareOf(delta, rank * energy) : leadingSvd(delta, rank);
  const kept = sum(svd.s.map((x) => x * x));
  return {
    ...leadingFactors(svd, svd.s.length),
    relativeError: energy ? Math.sqrt(Math.max(0, 1 - kept / energy)) : 0,
  };
}

/** The fewest singular values, but one at least, whose squares reach a sum. */
function shareOf(delta: FlatMatrix, wanted: number): LeadingSvd {
  const full = Math.min(delta.rows, delta.columns);
  for (let count = Math.min(8, full);; count = Math.min(4 * count, full)) {
    const { u, s, v } = leadingSvd(delta, count);
    let sum = 0;
    let rank = s.findIndex((x) => (sum += x * x) >= wanted) + 1;
    if (rank === 0 && count === full) rank = full;
    if (rank === 0) continue;
    return { u: firstRows(u, rank), s: s.subarray(0, rank), v: firstRows(v, rank) };
  }
}

/** A LoRA config that adapts the same sites. */
function convertedConfig(
  model: PeftModel,
  adapter: Adapter,
  of: {
    readonly rank: number;
    readonly sites: ReadonlyMap<string, Fitted>;
    readonly registry?: MethodRegistry;
    readonly loraBias: boolean;
  },
): LoraConfig {
  const { rank, sites, registry, loraBias } = of, { config } = adapter;
  const paths = adaptedPaths(adapter);
  const targets = isTargetConfig(config) ? config : undefined;
  const tied = partsOfKind(adapter, "site").some(({ leaves }) =>
    Object.values(leaves).some(({ tie }) => tie)
  );
  // Whole ranks are the same everywhere.
  const ranks = rank < 1
    ? Object.fromEntries(paths.map((path) => [path, sites.get(path)!.a.rows]))
    : {};
  const general = rank < 1 ? 1 : rank;
  const common = {
    r: general,
    loraAlpha: general,
    rankPattern: ranks,
    loraBias,
    layerReplication: (config as Partial<LoraConfig>).layerReplication ?? null,
    alphaPattern: ranks,
    taskType: config.taskType,
    baseModelNameOrPath: config.baseModelNameOrPath,
    revision: config.revision,
    modulesToSave: targets?.modulesToSave,
    trainableTokenIndices: targets?.trainableTokenIndices ?? null,
    ensureWeightTying: !tied && targets?.ensureWeightTying === true,
  };
  if (targets && !tied) {
    const { targetModules, excludeModules, layersToTransform, layersPattern } = targets;
    const selection = { targetModules, excludeModules, layersToTransform, layersPattern };
    const same = loraConfig({ ...common, ...selection });
    const planned = planAdapter(pristineBase(model), same, { registry });
    const found = planned.sites.map(({ site }) => site.path);
    if (found.sort().join("\n") === [...paths].sort().join("\n")) return same;
  }
  return loraConfig({ ...common, targetModules: paths });
}
