/**
 * Models: their parameters, sites and forward passes.
 *
 * @module
 */
export type * from "./architecture.ts";
export type * from "./forward-pass.ts";
export { type ModelGraph, releaseModel } from "./model-graph.ts";
export type { FunctionSignature, ModelSignature, ParameterSignature } from "./signature.ts";
export type { Site, SiteKind } from "./site.ts";
export type { Weight } from "./weight.ts";
