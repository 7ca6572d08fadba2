/**
 * Adapters on models: plan, inject, activate, run, merge, save, load.
 *
 * @module
 */
export {
  addAdapters,
  type AddAdaptersOptions,
  compressAdapter,
  type CompressAdapterOptions,
  type CompressedAdapter,
  type CompressionResidual,
  scaleAdapter,
  type ScaleAdapterOptions,
} from "./combine/adapter-algebra.ts";
export {
  initialCalibration,
  type InitialCalibrationOptions,
  loadCalibration,
  saveCalibration,
} from "./lora/calibration-files.ts";
export { type AdapterDtype, castAdapterDtype, type CastAdapterOptions } from "./cast-adapter.ts";
export { type ArrowModelOptions, createArrowModel } from "./lora/arrow-model.ts";
export { checkIfPeftModel, type CheckPeftOptions } from "./checkpoint/check-if-peft-model.ts";
export {
  type ConvertedLora,
  type ConvertedSite,
  type ConvertOptions,
  type ConvertProgress,
  convertToLora,
  saveAsLora,
  supportsLoraConversion,
} from "./lora/convert-to-lora.ts";
export type { ForwardInputs, OwnInputs } from "./batch.ts";
export {
  forward,
  type ForwardOutputs,
  type ForwardOutputsOf,
  type TaskOutputs,
} from "./forward.ts";
export {
  hotswapAdapter,
  type HotswapOptions,
  type PrepareHotswapOptions,
  prepareModelForCompiledHotswap,
  swapAdapter,
  type SwapOptions,
} from "./combine/hotswap.ts";
export type { CalibrationBatch, CalibrationBatches } from "./calibrate/observe.ts";
export { type DeltaWeightOptions, getDeltaWeight } from "./merge/delta-weight.ts";
export { fromPretrained, type FromPretrainedOptions } from "./checkpoint/from-pretrained.ts";
export { hashBase } from "./hash-base.ts";
export { addAdapter, getPeftModel, type InjectOptions } from "./inject.ts";
export {
  findKappaTargetModules,
  type KappaProgress,
  type KappaTargetOptions,
  type KappaTargets,
} from "./calibrate/kappa-targets.ts";
export { loadPeftConfig, type LoadPeftConfigOptions } from "./checkpoint/load-peft-config.ts";
export { loadPeftWeights, type LoadPeftWeightsOptions } from "./checkpoint/load-peft-weights.ts";
export type { KeyMapping, RenamedKey } from "./checkpoint/key-mapping.ts";
export type { Vocabularies } from "./checkpoint/trained-vocabulary.ts";
export { trainableLeaves, withLeaves } from "./leaves.ts";
export { type AdapterLoadReport, loadAdapter, type LoadAdapterOptions } from "./checkpoint/load.ts";
export type {
  LayerCertificate,
  MergeCertificate,
  MergeError,
  MergeTolerance,
} from "./merge/merge-certificate.ts";
export {
  type CertifiedMerge,
  type CertifiedMergeOptions,
  mergeAdapter,
  mergeAndUnload,
  type MergeOptions,
  unload,
  unmergeAdapter,
} from "./merge/merge.ts";
export {
  activeAdapter,
  activeAdapters,
  activePeftConfig,
  baseModelDtype,
  getBaseModel,
  modulesToSave,
  peftConfig,
} from "./status/model-info.ts";
export type { AdapterLeaf, AdapterLeaves, Part, PartPlace, Parts, Tie } from "./parts.ts";
export type { Adapter, AnyModel, PeftModel } from "./peft-model.ts";
export { type AdapterPlan, planAdapter, type PlanOptions } from "./plan/plan.ts";
export {
  type IntruderProgress,
  reduceIntruderDimension,
  type ReduceIntruderOptions,
} from "./lora/intruders.ts";
export { type ReplaceLoftqOptions, replaceLoraWeightsLoftq } from "./lora/loftq.ts";
export {
  type EvaOptions,
  type EvaStateOptions,
  type EvaWeightsOptions,
  getEvaStateDict,
  initializeLoraEvaWeights,
} from "./lora/eva.ts";
export type { EvaProgress } from "./lora/measure-eva.ts";
export {
  type CordaProgress,
  preprocessCorda,
  type PreprocessCordaOptions,
} from "./lora/preprocess-corda.ts";
export { createOrUpdateModelCard, readLabelNames } from "./checkpoint/model-card.ts";
export type { InitialState } from "./lora/plain-lora.ts";
export type { AdapterParts, AdapterSource } from "./checkpoint/read-adapter.ts";
export type { ParameterPlan } from "./plan/plan-parameters.ts";
export type { PatternReport } from "./plan/pattern-report.ts";
export type { PlannedSite, TargetPlan } from "./plan/plan-targets.ts";
export type { PlannedTokens, TokenPlan } from "./plan/plan-tokens.ts";
export { type SaveOptions, savePretrained } from "./checkpoint/save.ts";
export {
  deleteAdapter,
  disableAdapters,
  enableAdapters,
  setAdapter,
  type SetAdapterOptions,
  setRequiresGrad,
} from "./select.ts";
export {
  type Scoped,
  type ScopedFunction,
  withActiveAdapters,
  withAdapterScale,
  withAdaptersDisabled,
  withoutInputDtypeCasting,
} from "./scope.ts";
export {
  type AdapterInput,
  type ForwardInputsOf,
  type SignatureChoice,
  updateForwardSignature,
  updateGenerateSignature,
  updateSignature,
  type WithForwardSignature,
  type WithGenerateSignature,
  type WithSignature,
} from "./signature.ts";
export {
  getAdapterStateDict,
  type LoadReport,
  setAdapterStateDict,
  type SetStateDictOptions,
  type StateDictOptions,
} from "./checkpoint/state-dict.ts";
export {
  getLayerStatus,
  getModelStatus,
  type Irregular,
  type LayerStatus,
  type ModelStatus,
} from "./status/status.ts";
export type { TokenBatch } from "./token-batch.ts";
export {
  type TracedModel,
  traceModel,
  type TraceOptions,
  type VirtualRows,
} from "./trace-model.ts";
export {
  getNbSavableParameters,
  printSavableParameters,
  type SavableCounts,
} from "./status/savable-parameters.ts";
export {
  getNbTrainableParameters,
  type ParameterCounts,
  printTrainableParameters,
} from "./status/trainable-parameters.ts";
export {
  addWeightedAdapter,
  type CombinationType,
  type WeightedAdapterOptions,
} from "./combine/weighted-adapter.ts";
