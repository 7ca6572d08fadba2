/**
 * PEFT methods and their registry.
 *
 * @module
 */
export {
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
  TASK_TYPES,
  type TaskType,
} from "./config.ts";
export { type LoraConfig, loraConfig, type LoraInit } from "./lora-config.ts";
export type {
  ForwardContext,
  InitContext,
  Leaves,
  MergeContext,
  PeftMethod,
  SiteContext,
  SiteLeaves,
} from "./method.ts";
export {
  createMethodRegistry,
  defaultMethods,
  methodOf,
  type MethodRegistry,
  type PeftMethodEntry,
  registerPeftMethod,
} from "./mod.ts";
export { fromPeftJson, type PeftJsonOptions, toPeftJson } from "./peft-json.ts";
export type { TorchRandom } from "./torch-random.ts";
