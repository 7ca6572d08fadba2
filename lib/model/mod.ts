/**
 * Models: their parameters, sites and forward passes.
 *
 * @module
 */
export type * from "./architecture.ts";
export type * from "./attend.ts";
export type { BatchAxis, BatchInput } from "./batch-input.ts";
export type * from "./forward-pass.ts";
export type { ProblemType } from "./label-count.ts";
export { type LayerRange, type ModelGraph, releaseModel } from "./model-graph.ts";
export type {
  AttentionLayer,
  AttentionSizes,
  ConvOptions,
  ConvSizes,
  EmbeddingOptions,
  Layer,
  LinearOptions,
  Modules,
  MultiheadOptions,
  TieOptions,
} from "./modules.ts";
export type { FunctionSignature, ParameterSignature } from "./signature.ts";
export type { AttentionLayout, ConvRule, NormRule, Site, SiteKind } from "./site.ts";
export type { LowRank, Weight } from "./weight.ts";
