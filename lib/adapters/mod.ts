/**
 * Adapters on models: plan, inject, activate, run, merge, save, load.
 *
 * @module
 */
export { forward, type ForwardInputs, type ForwardOutputs } from "./forward.ts";
export { hashBase } from "./hash-base.ts";
export { addAdapter, getPeftModel, type InjectOptions } from "./inject.ts";
export { trainableLeaves, withLeaves } from "./leaves.ts";
export {
  type AdapterLoadReport,
  type AdapterParts,
  loadAdapter,
  type LoadAdapterOptions,
} from "./load.ts";
export { mergeAndUnload, type MergeOptions, unload } from "./merge.ts";
export type { Adapter, AnyModel, PeftModel, TokenRows } from "./peft-model.ts";
export { type AdapterPlan, planAdapter, type PlanOptions } from "./plan.ts";
export type { ParameterPlan } from "./plan-parameters.ts";
export type { PatternReport, PlannedSite, TargetPlan } from "./plan-targets.ts";
export type { PlannedTokens, TokenPlan } from "./plan-tokens.ts";
export { type SaveOptions, savePretrained } from "./save.ts";
export {
  deleteAdapter,
  disableAdapters,
  enableAdapters,
  setAdapter,
  withAdapterScale,
} from "./select.ts";
export {
  getAdapterStateDict,
  type LoadReport,
  setAdapterStateDict,
  type StateDictOptions,
} from "./state-dict.ts";
export type { TokenBatch } from "./token-batch.ts";
export { type TracedModel, traceModel, type TraceOptions } from "./trace-model.ts";
