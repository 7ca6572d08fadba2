/**
 * PEFT methods and their registry.
 *
 * @module
 */
export { averageCombine, type AverageOptions } from "./average-combine.ts";
export type { Calibration } from "./calibration.ts";
export type { CordaCalibration } from "./lora/corda.ts";
export type { CordaConfig } from "./lora/corda-config.ts";
export type {
  CombineContext,
  CombineOptions,
  CombinePart,
  CombineRule,
  CombineSite,
  CompressContext,
  CompressedSite,
  MajoritySignMethod,
} from "./combine.ts";
export {
  checkLayersPattern,
  checkTargets,
  commonFields,
  type ConfigFields,
  type ConfigSchema,
  field,
  type FieldType,
  type FieldTypes,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
export { type Ia3Config, ia3Config } from "./ia3-config.ts";
export { type LoraConfig, loraConfig, type LoraFields, type LoraInit } from "./lora/lora-config.ts";
export type * from "./method.ts";
export {
  createMethodRegistry,
  defaultMethods,
  methodOf,
  type MethodRegistry,
  type PeftMethodEntry,
  registerPeftMethod,
} from "./mod.ts";
export { fromPeftJson, type PeftJsonOptions, toPeftJson } from "./peft-json.ts";
export { type PrefixTuningConfig, prefixTuningConfig } from "./prefix-tuning-config.ts";
export type { PromptLearningConfig } from "./prompt-config.ts";
export { PeftType, TASK_TYPES, TaskType } from "./peft-types.ts";
export type { RefitContext, RefitRule } from "./refit.ts";
export type { TorchRandom } from "./torch-random.ts";
export { type VeraConfig, veraConfig } from "./vera-config.ts";
