/**
 * The operations that architectures and methods are written in.
 *
 * @module
 */
export { attention, type AttentionOptions } from "./attention.ts";
export {
  add,
  and,
  div,
  equal,
  greater,
  greaterEqual,
  less,
  lessEqual,
  max,
  min,
  mul,
  type Operand,
  or,
  pow,
  sub,
} from "./binary.ts";
export { broadcast } from "./broadcast.ts";
export { cacheUpdate } from "./cache-update.ts";
export { cast } from "./cast.ts";
export { concat } from "./concat.ts";
export { constant } from "./constant.ts";
export { crossEntropy } from "./cross-entropy.ts";
export { dequantize } from "./dequantize.ts";
export { dropoutMask } from "./dropout-mask.ts";
export * from "./functions.ts";
export { gather } from "./gather.ts";
export { gatherQuantized } from "./gather-quantized.ts";
export { input, type InputSpec, type Role } from "./input.ts";
export { iota } from "./iota.ts";
export { layerNorm } from "./layer-norm.ts";
export { matmul, type MatmulOptions } from "./matmul.ts";
export { matmulQuantized, type QuantizedValue } from "./matmul-quantized.ts";
export { pad } from "./pad.ts";
export { mean, reduceMax, type ReduceOptions, sum } from "./reduce.ts";
export { reshape } from "./reshape.ts";
export { rmsNorm } from "./rms-norm.ts";
export { rope } from "./rope.ts";
export { scatterAdd } from "./scatter-add.ts";
export { select } from "./select.ts";
export { slice, sliceAxis } from "./slice.ts";
export { softmax } from "./softmax.ts";
export { stopGradient } from "./stop-gradient.ts";
export { transpose } from "./transpose.ts";
export {
  abs,
  cos,
  erf,
  exp,
  floor,
  log,
  neg,
  not,
  rsqrt,
  sigmoid,
  sign,
  sin,
  sqrt,
  tanh,
} from "./unary.ts";
export type { Attribute, Attributes, Graph, Spec, Value, ValueType } from "./value.ts";
