/**
 * The operations that architectures and methods are written in.
 *
 * @module
 */
export { attention, type AttentionOptions } from "./attention.ts";
export {
  abs,
  add,
  and,
  type BinaryFunction,
  cos,
  div,
  equal,
  erf,
  exp,
  floor,
  greater,
  greaterEqual,
  less,
  lessEqual,
  log,
  max,
  min,
  mul,
  neg,
  normalCdf,
  not,
  type Operand,
  or,
  pow,
  rsqrt,
  sigmoid,
  sign,
  sin,
  sqrt,
  sub,
  tanh,
  type UnaryFunction,
} from "./elementwise.ts";
export { broadcast } from "./broadcast.ts";
export { cacheUpdate } from "./cache-update.ts";
export { cast } from "./cast.ts";
export { concat } from "./concat.ts";
export { constant } from "./constant.ts";
export { crossEntropy } from "./cross-entropy.ts";
export { dequantize } from "./dequantize.ts";
export { dropoutMask } from "./dropout-mask.ts";
export * from "./functions.ts";
export { gather, scatterAdd, type ScatterOptions } from "./gather.ts";
export { gatherQuantized } from "./gather-quantized.ts";
export { input, type InputSpec, type Role } from "./input.ts";
export { inverse } from "./inverse.ts";
export { uniform } from "./uniform.ts";
export { iota } from "./iota.ts";
export { layerNorm } from "./layer-norm.ts";
export { matmul, type MatmulOptions } from "./matmul.ts";
export { matmulQuantized } from "./matmul-quantized.ts";
export type { QuantizedValue } from "./quantized-value.ts";
export { mean, reduceMax, type ReduceOptions, sum } from "./reduce.ts";
export { patches, type PatchOptions } from "./patches.ts";
export { reshape } from "./reshape.ts";
export { rmsNorm } from "./rms-norm.ts";
export { rope } from "./rope.ts";
export { select } from "./select.ts";
export { pad, slice, sliceAxis } from "./slice.ts";
export { softmax } from "./softmax.ts";
export { stopGradient } from "./stop-gradient.ts";
export { transpose } from "./transpose.ts";
export type { Attribute, Attributes, Graph, Spec, Value, ValueType } from "./value.ts";
export { withGradientOf } from "./with-gradient-of.ts";
