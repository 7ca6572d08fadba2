/**
 * PEFT methods and their registry.
 *
 * @module
 */
export { type AdamssConfig, adamssConfig } from "./adamss/adamss-config.ts";
export * from "./all.ts";
export { averageCombine, type AverageOptions } from "./average-combine.ts";
export type { Calibration } from "./calibration.ts";
export type { CordaCalibration } from "./lora/corda.ts";
export type { CordaConfig } from "./lora/corda-config.ts";
export type { EvaConfig, LoftqConfig, LoraGaConfig } from "./lora/init-config.ts";
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
  type CalibrationCheck,
  checkLayersPattern,
  checkTargets,
  commonFields,
  type ConfigFields,
  type ConfigSchema,
  described,
  field,
  type FieldType,
  type FieldTypes,
  type FormerName,
  nestedField,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  type TargetedConfig,
  targetFields,
} from "./config.ts";
export { type LoraConfig, loraConfig, type LoraFields, type LoraInit } from "./lora/lora-config.ts";
export type {
  ArrowConfig,
  BdLoraConfig,
  KasaConfig,
  MontecloraConfig,
  VeloraConfig,
} from "./lora/variant-configs.ts";
export type { LycorisConfig } from "./lycoris.ts";
export type * from "./method.ts";
export {
  createMethodRegistry,
  defaultMethods,
  methodOf,
  type MethodRegistry,
  registerPeftMethod,
  type RegistryOptions,
} from "./mod.ts";
export { fromPeftJson, type PeftJsonOptions, toPeftJson } from "./peft-json.ts";
export type { PromptLearningConfig } from "./prompt-config.ts";
export type { ProjectionConfig } from "./projections.ts";
export { PeftType, TASK_TYPES, TaskType } from "./peft-types.ts";
export type { RefitContext, RefitRule } from "./refit.ts";
export type {
  AttentionRule,
  ChangeRule,
  DeltaRule,
  ForwardRule,
  ReplaceRule,
  SiteCall,
  SiteRule,
  SiteRules,
  SiteValues,
} from "./site-rule.ts";
export type { SpectrumConfig } from "./spectrum.ts";
export type * from "./training-rule.ts";
export type { TorchRandom } from "./torch-random.ts";
