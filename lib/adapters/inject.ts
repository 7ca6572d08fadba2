/**
 * `getPeftModel` and `addAdapter`: new adapters on a base.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { Calibration } from "../methods/calibration.ts";
import type { PeftConfig } from "../methods/config.ts";
import { methodOf, REGISTRY, type RegistryOptions } from "../methods/mod.ts";
import { checkSeed } from "../methods/torch-random.ts";
import { type ModelGraph, parameterOf } from "../model/model-graph.ts";
import type { TaskType } from "../model/task-type.ts";
import { BOOLEAN, checkOptions, type OptionRules, showName } from "../options.ts";
import { castTensor } from "../tensor/convert.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { layeredBase } from "./layered-base.ts";
import { gatheredRows, keyStart, lazyParts } from "./lazy-leaves.ts";
import { BASE_ROW } from "./mixed-batch.ts";
import { type AdapterLeaf, type Part, partsOf } from "./parts.ts";
import {
  type Adapter,
  type AnyModel,
  baseOf,
  checkPeft,
  type PeftModel,
  pristineBase,
} from "./peft-model.ts";
import { type AdapterPlan, checkPlan, planAdapter } from "./plan/plan.ts";
import { targetsOfKeys } from "./plan/targets-of-keys.ts";

/** How to make an adapter. */
export interface InjectOptions extends RegistryOptions {
  /**
   * Seed of the random numbers that leaves start from: they are those of `torch.manual_seed`. 0 by
   * default.
   */
  readonly seed?: number;
  /**
   * Entries and layers of the config that name nothing are no error as long as something is
   * adapted.
   */
  readonly allowUnmatched?: boolean;
  /**
   * The state dict of an adapter, or any keys of one: the modules that it has leaves of are adapted,
   * and become the config's `targetModules`. Its values are not used; `setAdapterStateDict` takes them.
   */
  readonly stateDict?: { keys(): Iterable<string> };
  /**
   * What was measured for the adapter to begin with, for configs that need it (`initLoraWeights:
   * "corda"`, `preprocessCorda`; `"lora_ga"`, `preprocessLoraga`).
   */
  readonly calibration?: Calibration;
}

const INJECT: OptionRules<InjectOptions> = {
  seed: null,
  allowUnmatched: BOOLEAN,
  stateDict: {
    must: "a state dict: a Map with its keys",
    holds: (x) => typeof (x as ReadonlyMap<string, unknown>)?.keys === "function",
  },
  registry: REGISTRY,
  calibration: null,
};

/**
 * A model with one new adapter, which is active and trainable. The base stays as it is, and its
 * weights are shared. What the adapter's leaves start from is computed when they are first needed.
 *
 * @param base The base model.
 * @param config A config as `loraConfig` makes it.
 * @param options The adapter's name (`"default"`), and see {@link InjectOptions}.
 * @throws {TargetError} where an entry of the config names nothing, or something that cannot be
 * adapted; `planAdapter` tells without throwing.
 * @throws {ConfigError} where the config is not valid.
 * @throws {ValueError} where the config needs a `calibration` and none is given, or one that does not
 * fit it.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 8, targetModules: "all-linear", taskType: "CAUSAL_LM" });
 * const model = getPeftModel(base, config);
 * console.log(model.active); // ["default"]
 * ```
 *
 * @example The modules that a state dict is of
 * ```ts
 * import { getAdapterStateDict, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { setAdapterStateDict } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 4, targetModules: ["o_proj"] });
 * const stateDict = getAdapterStateDict(getPeftModel(base, config));
 * const empty = getPeftModel(base, loraConfig({ r: 4 }), { stateDict });
 * const { model } = await setAdapterStateDict(empty, stateDict);
 * console.log(getAdapterStateDict(model).size === stateDict.size); // true
 * ```
 */
export function getPeftModel<T extends TaskType = TaskType>(
  base: ModelGraph<T>,
  config: PeftConfig,
  options: InjectOptions & { readonly adapterName?: string } = {},
): PeftModel<T> {
  checkOptions(options, {
    adapterName: null,
    ...INJECT,
  }, { code: "INJECT_OPTION", of: "getPeftModel" });
  const { adapterName = "default" } = options;
  const empty = ownBase(emptyModel(base), config, options);
  const adapter = createAdapter(empty.base, config, { ...options, adapterName });
  const model = withNewAdapter(empty, adapter, { active: true, trainable: !config.inferenceMode });
  return model as PeftModel<T>;
}

/**
 * The model with one more adapter, as yet untrained. It is neither active nor trainable until
 * `setAdapter` makes it so.
 *
 * @param model A model with adapters.
 * @param adapterName The new adapter's name.
 * @param config A config as `loraConfig` makes it.
 * @throws {ValueError} where the name is taken or cannot be the name of a folder; otherwise as
 * {@link getPeftModel}.
 *
 * @example
 * ```ts
 * import { addAdapter, getPeftModel, loraConfig, setAdapter, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const one = getPeftModel(base, loraConfig());
 * const two = addAdapter(one, "style", loraConfig({ r: 4, targetModules: "all-linear" }));
 * console.log(two.active, setAdapter(two, "style").active); // ["default"] ["style"]
 * ```
 */
export function addAdapter(
  model: PeftModel,
  adapterName: string,
  config: PeftConfig,
  options: InjectOptions = {},
): PeftModel {
  checkOptions(options, INJECT, { code: "INJECT_OPTION", of: "addAdapter" });
  checkNewName(model, adapterName);
  const adapter = createAdapter(pristineBase(model), config, { ...options, adapterName });
  return withNewAdapter(model, adapter, { active: false, trainable: false });
}

/** A model whose base has the layers that a config asks for. */
export function ownBase(
  model: PeftModel,
  config: PeftConfig,
  options: RegistryOptions,
): PeftModel {
  if (typeof config?.peftType !== "string") return model; // The plan says what is wrong.
  const method = methodOf(config.peftType, options.registry);
  const base = layeredBase(model, { method, config });
  return base === pristineBase(model) ? model : { ...model, base };
}

/** A model without any adapter. */
export function emptyModel(base: AnyModel): PeftModel {
  if (baseOf(base) !== base) {
    throw new ValueError(
      "ALREADY_PEFT",
      `The model already has adapters (${
        [...(base as PeftModel).adapters.keys()].join(", ")
      }). Use addAdapter to add another, or give the base.`,
    );
  }
  return {
    type: "peft",
    base: baseOf(base),
    adapters: new Map(),
    active: [],
    enabled: true,
    multipliers: new Map(),
    trainable: [],
  };
}

/** The model with an adapter that was made for it. */
export function withNewAdapter(
  model: PeftModel,
  adapter: Adapter,
  options: { readonly active: boolean; readonly trainable: boolean },
): PeftModel {
  const { name } = adapter;
  return {
    ...model,
    adapters: new Map([...model.adapters, [name, adapter]]),
    active: options.active ? [name] : model.active,
    trainable: options.trainable ? [...model.trainable, name] : model.trainable,
  };
}

/**
 * Refuses a name for a new adapter.
 *
 * @throws {ValueError} where it is taken or cannot be the name of a folder.
 */
export function checkNewName(model: PeftModel, name: string): void {
  checkPeft(model);
  if (model.adapters.has(name)) {
    throw new ValueError(
      "ADAPTER_EXISTS",
      `There is already an adapter named ${JSON.stringify(name)}; the model has ${
        [...model.adapters.keys()].join(", ")
      }. Choose another name, or delete that one first.`,
      { name },
    );
  }
  checkName(name);
}

function checkName(name: string): void {
  if (typeof name === "string" && /^[^./\\\0]+$/.test(name) && name !== BASE_ROW) return;
  throw new ValueError(
    "ADAPTER_NAME",
    name === BASE_ROW
      ? `"${BASE_ROW}" cannot name an adapter: in a mixed batch it stands for none.`
      : `${
        showName(name)
      } cannot name an adapter: it becomes the name of a folder and part of a key, so it must not be empty or hold a dot or a slash.`,
    { name },
  );
}

/** Makes an adapter for a base. With `loaded`, its trained leaves are about to be replaced. */
export function createAdapter(
  base: ModelGraph,
  config: PeftConfig,
  options: InjectOptions & { readonly adapterName: string; readonly loaded?: boolean },
): Adapter {
  const { adapterName, seed = 0, loaded = false, calibration, stateDict } = options;
  checkName(adapterName);
  checkSeed(seed);
  const targeted = stateDict ? targetsOfKeys(config, { ...options, base, stateDict }) : config;
  const plan = checkPlan(planAdapter(base, targeted, { registry: options.registry }), options);
  checkCalibration(plan, { calibration, loaded });
  return {
    name: adapterName,
    method: plan.method,
    config: loaded ? plan.config : { ...plan.config, baseModelNameOrPath: base.source || null },
    parts: partsOf([
      ...lazyParts(base, { plan, seed, calibration }),
      ...copiedParameters(base, plan),
      ...tokenRows(base, plan),
    ]),
  };
}

function checkCalibration(
  { method, config, sites }: AdapterPlan,
  options: { readonly calibration?: Calibration; readonly loaded: boolean },
): void {
  if (method.config.checkCalibration) {
    method.config.checkCalibration(config, { ...options, sites: sites.map(({ site }) => site) });
  } else if (options.calibration !== undefined) {
    throw new ValueError(
      "CALIBRATION_UNUSED",
      `A calibration was given, and adapters of the method ${config.peftType} do not begin with one. Leave it out.`,
    );
  }
}

/** Trained copies in f32 of the parameters that a plan saves, tied ones once. */
export function copiedParameters(base: ModelGraph, plan: AdapterPlan): readonly Part[] {
  const adapted = new Set(plan.sites.map(({ site }) => site.path));
  const owners = new Map<string, string>();
  return [...plan.parameters].map(([name, source]): Part => {
    const owner = owners.get(source);
    if (owner === undefined) owners.set(source, name);
    return replacement(name, {
      kind: "trained",
      key: parameterKey(plan, adapted, name),
      ...(owner === undefined
        ? { tensor: castTensor(parameterOf(base, source), "f32") }
        : { shape: parameterOf(base, source).shape, tie: owner }),
    });
  });
}

/** What stands for a parameter of the base. */
export function replacement(
  name: string,
  leaf:
    & Pick<AdapterLeaf, "kind" | "key">
    & (
      | { readonly tensor: Tensor }
      | { readonly shape: readonly number[]; readonly tie: string }
    ),
): Part {
  const { kind, key } = leaf;
  const own = "tensor" in leaf
    ? { shape: leaf.tensor.shape, tensor: leaf.tensor }
    : { shape: leaf.shape, tie: { part: `param.${leaf.tie}`, leaf: "", transposed: false } };
  return { place: { kind: "parameter", name }, leaves: { "": { kind, key, ...own } } };
}

/** A parameter's key where PEFT has wrapped adapted modules: what is in them moves into `base_layer`. */
export function parameterKey(
  { method }: Pick<Adapter, "method">,
  adapted: Pick<ReadonlySet<string>, "has">,
  name: string,
): string {
  const inside = name.split(".").reduce((path, part, i, parts) =>
    adapted.has(parts.slice(0, i).join(".")) ? `${path}.base_layer.${part}` : `${path}.${part}`
  );
  return `${keyStart(method)}${inside}`;
}

function tokenRows(base: ModelGraph, plan: AdapterPlan): readonly Part[] {
  const start = keyStart(plan.method);
  const owners = new Map<string, string>();
  return [...plan.tokens].map(([path, { owner: source, indices, width }]): Part => {
    const owner = owners.get(source), shape = [indices.length, width];
    if (owner === undefined) owners.set(source, path);
    return {
      place: { kind: "tokens", path, indices },
      leaves: {
        "": {
          kind: "trained",
          shape,
          ...(owner === undefined
            ? {
              key: `${start}${path}.token_adapter.trainable_tokens_delta`,
              tensor: gatheredRows(parameterOf(base, `${source}.weight`), indices),
            }
            : { key: null, tie: { part: `tokens.${owner}`, leaf: "", transposed: false } }),
        },
      },
    };
  });
}
