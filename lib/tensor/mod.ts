/**
 * Tensors: element types, contents and conversion.
 *
 * @module
 */
export * from "./dtype.ts";
export * from "./tensor.ts";
export { castTensor, toFloat32 } from "./convert.ts";
export * from "./random.ts";
