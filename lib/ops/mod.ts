/**
 * The registry of primitive operations. A new one is a file and a line here.
 *
 * @module
 */
import {
  attentionGradKOperation,
  attentionGradQOperation,
  attentionGradVOperation,
  attentionLogSumOperation,
  attentionOperation,
} from "./attention.ts";
import { binaryOperation, unaryOperation } from "./elementwise.ts";
import { broadcastOperation } from "./broadcast.ts";
import { cacheUpdateOperation } from "./cache-update.ts";
import { castOperation } from "./cast.ts";
import { concatOperation } from "./concat.ts";
import { constantOperation } from "./constant.ts";
import { crossEntropyGradOperation, crossEntropyOperation } from "./cross-entropy.ts";
import { dequantizeOperation } from "./dequantize.ts";
import { dropoutMaskOperation } from "./dropout-mask.ts";
import { gatherOperation, scatterAddOperation } from "./gather.ts";
import { gatherQuantizedOperation } from "./gather-quantized.ts";
import { inputOperation } from "./input.ts";
import { inverseOperation } from "./inverse.ts";
import { iotaOperation } from "./iota.ts";
import { layerNormOperation } from "./layer-norm.ts";
import { matmulOperation } from "./matmul.ts";
import { matmulQuantizedOperation } from "./matmul-quantized.ts";
import type { Operation } from "./operation.ts";
import { uniformOperation } from "./uniform.ts";
import { reduceOperation } from "./reduce.ts";
import { reshapeOperation } from "./reshape.ts";
import { rmsNormOperation } from "./rms-norm.ts";
import { ropeOperation } from "./rope.ts";
import { selectOperation } from "./select.ts";
import { padOperation, sliceOperation } from "./slice.ts";
import { softmaxOperation } from "./softmax.ts";
import { stopGradientOperation } from "./stop-gradient.ts";
import { transposeOperation } from "./transpose.ts";
import { withGradientOfOperation } from "./with-gradient-of.ts";

/** All primitive operations by name. */
export const OPERATIONS: ReadonlyMap<string, Operation> = new Map(
  [
    attentionGradKOperation,
    attentionGradQOperation,
    attentionGradVOperation,
    attentionLogSumOperation,
    attentionOperation,
    binaryOperation,
    broadcastOperation,
    cacheUpdateOperation,
    castOperation,
    concatOperation,
    constantOperation,
    crossEntropyGradOperation,
    crossEntropyOperation,
    dequantizeOperation,
    dropoutMaskOperation,
    gatherOperation,
    gatherQuantizedOperation,
    inputOperation,
    inverseOperation,
    iotaOperation,
    layerNormOperation,
    matmulOperation,
    matmulQuantizedOperation,
    padOperation,
    uniformOperation,
    reduceOperation,
    reshapeOperation,
    rmsNormOperation,
    ropeOperation,
    scatterAddOperation,
    selectOperation,
    sliceOperation,
    softmaxOperation,
    stopGradientOperation,
    transposeOperation,
    unaryOperation,
    withGradientOfOperation,
  ].map((o) => [o.name, o]),
);

/** The rules of a node's operation. */
export function operationOf(node: { readonly op: string }): Operation {
  const operation = OPERATIONS.get(node.op);
  if (!operation) {
    throw new TypeError(`The operation "${node.op}" is not registered in lib/ops/mod.ts.`);
  }
  return operation;
}
