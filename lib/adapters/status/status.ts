/**
 * `getLayerStatus` and `getModelStatus`: what adapters do at each layer and in a whole model.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../../errors.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { isBlockType } from "../../tensor/dtype.ts";
import { moduleOf, modulesOf, wrapperOf } from "../plan/module-tree.ts";
import { adapterModelType, baseModelType, moduleType } from "./peft-names.ts";
import { type Adapter, checkPeft, type PeftModel, pristineBase } from "../peft-model.ts";
import { savedModules } from "./saved-modules.ts";
import { adaptedParameters, partsOfKind, sitePart, tokensPart } from "../parts.ts";
import { getNbTrainableParameters } from "./trainable-parameters.ts";

/** Said of what is not the same everywhere. */
export type Irregular = "irregular";

/** What adapters do at one layer: PEFT's `TunerLayerStatus`. */
export interface LayerStatus {
  /**
   * PEFT's name of the layer: `model.` and the module path, for rows of embeddings followed by
   * `.token_adapter`.
   */
  readonly name: string;
  /**
   * PEFT's name of its class, such as `lora.Linear`, `ModulesToSaveWrapper` or
   * `TrainableTokensLayer`.
   */
  readonly moduleType: string;
  /** Whether active adapters take part at all. */
  readonly enabled: boolean;
  /**
   * Names of the active adapters. As in PEFT, a layer that a method adapts names all that are
   * active in the model; a saved module or rows of an embedding only the one that is active there.
   */
  readonly activeAdapters: readonly string[];
  /** Names of the adapters that are merged into the weight. */
  readonly mergedAdapters: readonly string[];
  /** Whether training changes the layer's part of an adapter, by adapter name. */
  readonly requiresGrad: Readonly<Record<string, boolean | Irregular>>;
  /** Names of the adapters that have a part here, sorted. */
  readonly availableAdapters: readonly string[];
  /** Kinds of devices that run each adapter's part, by adapter name. */
  readonly devices: Readonly<Record<string, readonly string[]>>;
  /** How the weight underneath is quantized, such as `gguf q4_0`; `null` where it is not. */
  readonly quantizationBackend: string | null;
}

/** What adapters do in a model: PEFT's `TunerModelStatus`. */
export interface ModelStatus {
  /** Name of the base's Python class, as `config.json` has it; `other` where it has none. */
  readonly baseModelType: string;
  /** Name of PEFT's class for the method, such as `LoraModel`. */
  readonly adapterModelType: string;
  /** The `peft_type` of each adapter, by its name. */
  readonly peftTypes: Readonly<Record<string, string>>;
  /** As `getNbTrainableParameters` counts them. */
  readonly trainableParams: number;
  /** As `getNbTrainableParameters` counts them. */
  readonly totalParams: number;
  /** How many layers {@link getLayerStatus} gives. */
  readonly numAdapterLayers: number;
  /** Whether adapters are enabled at all layers. */
  readonly enabled: boolean | Irregular;
  /** The active adapters; irregular where layers name different ones. */
  readonly activeAdapters: readonly string[] | Irregular;
  /**
   * The merged adapters, sorted; irregular where one of them has a part at a layer that it is not
   * merged into, such as a saved module.
   */
  readonly mergedAdapters: readonly string[] | Irregular;
  /** Whether training changes an adapter, by its name. */
  readonly requiresGrad: Readonly<Record<string, boolean | Irregular>>;
  /** Names of all adapters that have a part at some layer, sorted. */
  readonly availableAdapters: readonly string[];
  /** Kinds of devices that run an adapter, by its name. */
  readonly devices: Readonly<Record<string, readonly string[]>>;
  /** How the adapted weights are quantized; irregular where they differ. */
  readonly quantizationBackend: string | null | Irregular;
}

/**
 * The status of every layer that an adapter has a part at, in the model's order: adapted modules,
 * saved ones, and embeddings with trained rows.
 *
 * @param model A model with adapters.
 * @throws {UnsupportedError} `STATUS_METHOD` where no adapter has layers, as with prompts and
 * prefixes.
 * @throws {ValueError} `NO_ADAPTER_LAYERS` where the model has no adapters, `NOT_PEFT` for a base.
 *
 * @example
 * ```ts
 * import { getLayerStatus, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ targetModules: ["q_proj"] }));
 * const [{ name, moduleType, requiresGrad }] = getLayerStatus(model);
 * console.log(name, moduleType, requiresGrad);
 * // model.model.layers.0.self_attn.q_proj lora.Linear { default: true }
 * ```
 */
export function getLayerStatus(model: PeftModel): readonly LayerStatus[] {
  checkPeft(model);
  const adapters = [...model.adapters.values()];
  if (
    adapters.length > 0 && adapters.every((adapter) => partsOfKind(adapter, "site").length === 0)
  ) {
    const types = [...new Set(adapters.map(({ config }) => config.peftType))].join(", ");
    throw new UnsupportedError(
      "STATUS_METHOD",
      `${types} adapts no layers, so there is no status of them. ` +
        `Use getNbTrainableParameters, activeAdapters and peftConfig.`,
      { peftTypes: types },
    );
  }
  const base = pristineBase(model);
  const saved = new Map(adapters.map((adapter) => [adapter, savedModules(base, adapter)]));
  const having = (has: (adapter: Adapter) => boolean) => adapters.filter(has);
  const parameters = new Set(adapters.flatMap((adapter) => adaptedParameters(adapter, base)));
  const layers = [...modulesOf(base).values()].flatMap(({ path, site }) => {
    const tuned = Map.groupBy(
      having((a) => sitePart(a, path) !== undefined),
      (a) => a.config.peftType,
    );
    return [
      ...[...parameters].filter((name) => moduleOf(name) === path).reverse().map((name) =>
        layerStatus(model, having((adapter) => sitePart(adapter, name) !== undefined), {
          name: wrapperOf(name, [...parameters]),
          moduleType: moduleType("LORA", { kind: "parameter" }),
          kind: "tuned",
        })
      ),
      // Of several methods at one module, PEFT wraps the later one around the earlier.
      ...[...tuned].reverse().map(([peftType, here], depth) =>
        layerStatus(model, here, {
          name: path + ".base_layer".repeat(depth),
          moduleType: moduleType(peftType, site!),
          kind: "tuned",
          quantizationBackend: quantizationOf(base, path),
        })
      ),
      layerStatus(model, having((adapter) => saved.get(adapter)!.includes(path)), {
        name: path,
        moduleType: "ModulesToSaveWrapper",
        kind: "saved",
      }),
      layerStatus(model, having((adapter) => tokensPart(adapter, path) !== undefined), {
        name: `${path}.token_adapter`,
        moduleType: "TrainableTokensLayer",
        kind: "tokens",
      }),
    ].filter((status) => status.availableAdapters.length > 0);
  });
  if (layers.length > 0) return layers;
  throw new ValueError(
    "NO_ADAPTER_LAYERS",
    "The model has no adapters, so there is no status of their layers. " +
      "Add one with addAdapter or loadAdapter.",
  );
}

/**
 * The status of a model: what its layers have in common, and `"irregular"` for what they have not.
 *
 * @param model A model with adapters.
 * @throws As {@link getLayerStatus} does.
 *
 * @example
 * ```ts
 * import { addAdapter, getModelStatus, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const one = getPeftModel(base, loraConfig({ modulesToSave: ["lm_head"] }));
 * console.log(getModelStatus(one).activeAdapters); // ["default"]
 * const two = addAdapter(one, "style", loraConfig({ modulesToSave: ["norm"] }));
 * console.log(getModelStatus(two).activeAdapters); // irregular: default is not active at the norms
 * ```
 */
export function getModelStatus(model: PeftModel): ModelStatus {
  const layers = getLayerStatus(model);
  const { trainable, all } = getNbTrainableParameters(model);
  const peftTypes = [...model.adapters].map(([name, { config }]) => [name, config.peftType]);
  const availableAdapters = sorted(layers.flatMap((layer) => layer.availableAdapters));
  const byAdapter = <T>(of: (layer: LayerStatus) => Readonly<Record<string, T>>) =>
    availableAdapters.map((name): [string, readonly T[]] => [
      name,
      layers.filter((layer) => Object.hasOwn(of(layer), name)).map((layer) => of(layer)[name]),
    ]);
  return {
    baseModelType: baseModelType(model.base),
    adapterModelType: adapterModelType(peftTypes.map(([, type]) => type)),
    peftTypes: Object.fromEntries(peftTypes),
    trainableParams: trainable,
    totalParams: all,
    numAdapterLayers: layers.length,
    enabled: common(layers.map(({ enabled }) => enabled)),
    activeAdapters: common(layers.map((layer) => layer.activeAdapters)),
    mergedAdapters: mergedEverywhere(layers),
    requiresGrad: Object.fromEntries(
      byAdapter((layer) => layer.requiresGrad).map(([name, values]) => [name, common(values)]),
    ),
    availableAdapters,
    devices: Object.fromEntries(
      byAdapter((layer) => layer.devices).map(([name, kinds]) => [name, sorted(kinds.flat())]),
    ),
    quantizationBackend: common(layers.map((layer) => layer.quantizationBackend)),
  };
}

function layerStatus(
  model: PeftModel,
  adapters: readonly Adapter[],
  layer: {
    readonly name: string;
    readonly moduleType: string;
    readonly kind: "tuned" | "saved" | "tokens";
    readonly quantizationBackend?: string | null;
  },
): LayerStatus {
  const names = adapters.map(({ name }) => name);
  const isHere = (name: string) => names.includes(name);
  const trains = (name: string) => model.enabled && model.trainable.includes(name);
  return {
    name: `model.${layer.name}`,
    moduleType: layer.moduleType,
    enabled: model.enabled,
    activeAdapters: layer.kind === "tuned" ? model.active : model.active.filter(isHere),
    mergedAdapters: layer.kind === "saved" ? [] : model.merged?.names.filter(isHere) ?? [],
    requiresGrad: Object.fromEntries(names.map((name) => [name, trains(name)])),
    availableAdapters: sorted(names),
    devices: Object.fromEntries(names.map((name) => [name, [model.base.device.kind]])),
    quantizationBackend: layer.quantizationBackend ?? null,
  };
}

function quantizationOf(base: ModelGraph, path: string): string | null {
  const dtype = base.parameters.get(`${path}.weight`)?.dtype;
  return dtype && isBlockType(dtype) ? `gguf ${dtype}` : null;
}

function mergedEverywhere(layers: readonly LayerStatus[]): readonly string[] | Irregular {
  const merged = sorted(layers.flatMap((layer) => layer.mergedAdapters));
  const isMissing = layers.some(({ availableAdapters, mergedAdapters }) =>
    availableAdapters.some((name) => merged.includes(name) && !mergedAdapters.includes(name))
  );
  return isMissing ? "irregular" : merged;
}

/** What all values are, compared by contents. */
function common<T>(values: readonly T[]): T | Irregular {
  const texts = new Set(values.map((value) => JSON.stringify(value)));
  return texts.size === 1 ? values[0] : "irregular";
}

function sorted(names: readonly string[]): readonly string[] {
  return [...new Set(names)].sort();
}
