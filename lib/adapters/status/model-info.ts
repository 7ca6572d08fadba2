/**
 * What a model with adapters says about itself.
 *
 * @module
 */
import { ValueError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { type DType, isBlockType, isFloating } from "../../tensor/dtype.ts";
import { type AnyModel, baseOf, checkPeft, type PeftModel, pristineBase } from "../peft-model.ts";
import { savedNames } from "./saved-modules.ts";

/**
 * The base of a model: the value that adapters were put on, whatever is active, disabled or merged.
 * A base is its own base.
 *
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { getBaseModel, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * console.log(getBaseModel(getPeftModel(base, loraConfig())) === base); // true
 * ```
 */
export function getBaseModel(model: AnyModel): ModelGraph {
  baseOf(model);
  return pristineBase(model);
}

/**
 * Names of the active adapters, in the order in which they take part; also while they are disabled.
 *
 * @throws {ValueError} `NOT_PEFT` for a base.
 *
 * @example
 * ```ts
 * import { activeAdapters, addAdapter, tinyModel } from "@graft/peft";
 * import { getPeftModel, loraConfig, setAdapter } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 4 }));
 * console.log(activeAdapters(model)); // ["default"]
 * console.log(activeAdapters(setAdapter(model, ["style", "default"]))); // ["style", "default"]
 * ```
 */
export function activeAdapters(model: PeftModel): readonly string[] {
  checkPeft(model);
  return model.active;
}

/**
 * Name of the active adapter where there is one; as in PEFT the list of names where there are
 * several or none.
 *
 * @throws {ValueError} `NOT_PEFT` for a base.
 *
 * @example
 * ```ts
 * import { activeAdapter, addAdapter, tinyModel } from "@graft/peft";
 * import { getPeftModel, loraConfig, setAdapter } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 4 }));
 * console.log(activeAdapter(model)); // default
 * console.log(activeAdapter(setAdapter(model, ["style", "default"]))); // ["style", "default"]
 * ```
 */
export function activeAdapter(model: PeftModel): string | readonly string[] {
  const active = activeAdapters(model);
  return active.length === 1 ? active[0] : active;
}

/**
 * The config of every adapter by name.
 *
 * @throws {ValueError} `NOT_PEFT` for a base.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, peftConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4 }));
 * console.log(peftConfig(model).default.peftType); // LORA
 * ```
 */
export function peftConfig(model: PeftModel): Readonly<Record<string, PeftConfig>> {
  checkPeft(model);
  return Object.fromEntries([...model.adapters].map(([name, { config }]) => [name, config]));
}

/**
 * The config of the active adapter; of the first one where several are active.
 *
 * @throws {ValueError} `NO_ACTIVE_ADAPTER` where none is, `NOT_PEFT` for a base.
 *
 * @example
 * ```ts
 * import { activePeftConfig, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ taskType: "CAUSAL_LM" }));
 * console.log(activePeftConfig(model).taskType); // CAUSAL_LM
 * ```
 */
export function activePeftConfig(model: PeftModel): PeftConfig {
  const [name] = activeAdapters(model);
  const adapter = model.adapters.get(name);
  if (adapter) return adapter.config;
  throw new ValueError(
    "NO_ACTIVE_ADAPTER",
    `No adapter is active, so there is no active config. ${
      model.adapters.size
        ? `Activate one of ${[...model.adapters.keys()].join(", ")} with setAdapter.`
        : "The model has no adapters; add one with addAdapter or loadAdapter."
    }`,
  );
}

/**
 * Number type of the base: that of its first parameter that is kept as plain floats. Of a model
 * that holds nothing but blocks of quantized numbers it is the type of the blocks.
 *
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { baseModelDtype, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * console.log(baseModelDtype(base)); // f32
 * ```
 */
export function baseModelDtype(model: AnyModel): DType {
  const types = [...getBaseModel(model).parameters.values()].map(({ dtype }) => dtype);
  return types.find((dtype) => isFloating(dtype) && !isBlockType(dtype)) ?? types[0];
}

/**
 * The entries of `modulesToSave` of all adapters together; `null` where there are none.
 *
 * @throws {ValueError} `NOT_PEFT` for a base.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, modulesToSave, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * console.log(modulesToSave(getPeftModel(base, loraConfig({ modulesToSave: ["lm_head"] }))));
 * // ["lm_head"]
 * ```
 */
export function modulesToSave(model: PeftModel): readonly string[] | null {
  checkPeft(model);
  const names = new Set([...model.adapters.values()].flatMap(savedNames));
  return names.size ? [...names] : null;
}
