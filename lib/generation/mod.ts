/**
 * Generation: text from a model, with a cache of keys and values.
 *
 * @module
 */
export type { Decoder } from "./decoder.ts";
export { openDecoder } from "./decoder.ts";
export {
  type FinishReason,
  generate,
  generateStream,
  type Generation,
  type GenerationChunk,
} from "./generate.ts";
export type { GenerateOptions } from "./generate-options.ts";
export type { Prompt } from "./prompt.ts";
export { createPrefixCache, type PrefixCache } from "./prefix-cache.ts";
export { argmax, drawToken, processLogits, type SamplingOptions } from "./sampling.ts";
export { describeSignature, type GenerateOptionsOf } from "./signature.ts";
