/**
 * `getPeftModel` and `addAdapter`: new adapters on a base.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { Calibration } from "../methods/calibration.ts";
import type { PeftConfig } from "../methods/config.ts";
import { type MethodRegistry, REGISTRY } from "../methods/mod.ts";
import { checkSeed } from "../methods/torch-random.ts";
import { type ModelGraph, parameterOf } from "../model/model-graph.ts";
import { BOOLEAN, checkOptions, type OptionRules, showName } from "../options.ts";
import { castTensor } from "../tensor/convert.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { gatheredRows, lazyLeaves } from "./lazy-leaves.ts";
import { BASE_ROW } from "./mixed-batch.ts";
import {
  type Adapter,
  type AnyModel,
  baseOf,
  checkPeft,
  type PeftModel,
  pristineBase,
  type TokenRows,
} from "./peft-model.ts";
import { type AdapterPlan, checkPlan, planAdapter } from "./plan/plan.ts";

/** How to make an adapter. */
export interface InjectOptions {
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
  /** Methods to choose from; the library's own by default. */
  readonly registry?: MethodRegistry;
  /**
   * What was measured for the adapter to begin with, for configs that need it (`initLoraWeights:
   * "corda"`, `preprocessCorda`).
   */
  readonly calibration?: Calibration;
}

const INJECT: OptionRules<InjectOptions> = {
  seed: null,
  allowUnmatched: BOOLEAN,
  registry: REGISTRY,
  calibration: null,
};

const GET_PEFT_MODEL: OptionRules<InjectOptions & { readonly adapterName?: string }> = {
  adapterName: null,
  ...INJECT,
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
 * import { createModel, getPeftModel, loraConfig } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const config = loraConfig({ r: 8, targetModules: "all-linear", taskType: "CAUSAL_LM" });
 * const model = getPeftModel(base, config);
 * console.log(model.active); // ["default"]
 * ```
 */
export function getPeftModel(
  base: ModelGraph,
  config: PeftConfig,
  options: InjectOptions & { readonly adapterName?: string } = {},
): PeftModel {
  checkOptions(options, GET_PEFT_MODEL, { code: "INJECT_OPTION", of: "getPeftModel" });
  const { adapterName = "default" } = options;
  const empty = emptyModel(base);
  const adapter = createAdapter(base, config, { ...options, adapterName });
  return withNewAdapter(empty, adapter, { active: true, trainable: !config.inferenceMode });
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
 * import { addAdapter, createModel, getPeftModel, loraConfig, setAdapter } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
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
  const { adapterName, seed = 0, loaded = false, calibration } = options;
  checkName(adapterName);
  checkSeed(seed);
  const plan = checkPlan(planAdapter(base, config, { registry: options.registry }), options);
  checkCalibration(plan, { calibration, loaded });
  return {
    name: adapterName,
    method: plan.method,
    schema: plan.schema,
    isMixedCompatible: plan.isMixedCompatible,
    config: loaded ? plan.config : { ...plan.config, baseModelNameOrPath: base.source || null },
    ...lazyLeaves(base, { plan, seed, loaded, calibration }),
    parameters: copiedParameters(base, plan),
    tokens: tokenRows(base, plan),
  };
}

function checkCalibration(
  { method, config, sites }: AdapterPlan,
  options: { readonly calibration?: Calibration; readonly loaded: boolean },
): void {
  if (method.checkCalibration) {
    method.checkCalibration(config, { ...options, sites: sites.map(({ site }) => site) });
  } else if (options.calibration !== undefined) {
    throw new ValueError(
      "CALIBRATION_UNUSED",
      `A calibration was given, and adapters of the method ${method.peftType} do not begin with one. Leave it out.`,
    );
  }
}

/** Copies in f32: one object for each parameter, as its identity tells which of them are tied. */
export function copiedParameters(base: ModelGraph, plan: AdapterPlan): ReadonlyMap<string, Tensor> {
  const copies = new Map<string, Tensor>();
  for (const owner of new Set(plan.parameters.values())) {
    copies.set(owner, { ...castTensor(parameterOf(base, owner), "f32") });
  }
  return new Map([...plan.parameters].map(([name, owner]) => [name, copies.get(owner)!]));
}

function tokenRows(base: ModelGraph, plan: AdapterPlan): ReadonlyMap<string, TokenRows> {
  const rows = new Map<string, TokenRows>();
  for (const { owner, indices } of plan.tokens.values()) {
    if (rows.has(owner)) continue;
    const table = parameterOf(base, `${owner}.weight`);
    rows.set(owner, { indices, rows: gatheredRows(table, indices) });
  }
  return new Map([...plan.tokens].map(([path, { owner }]) => [path, rows.get(owner)!]));
}
