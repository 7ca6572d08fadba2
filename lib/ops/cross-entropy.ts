/**
 * `crossEntropy`: the loss of predicting a class, per row.
 *
 * @module
 */
import { rowVariants } from "../../kernels/rows.ts";
import { crossEntropyGradKernel, crossEntropyKernel } from "../../kernels/cross-entropy.ts";
import type { OnnxContext } from "./onnx-rule.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/** Label of rows that do not count. */
export const IGNORED_LABEL = -100;

/** −log softmax(logits)[label] for each row of `logits` [N, V] and `labels` [N] (`i32`); 0 where the label is −100. */
export function crossEntropy(logits: Value, labels: Value): Value {
  checkShapes(
    logits.shape.length === 2 && logits.dtype === "f32" &&
      labels.shape.join() === `${logits.shape[0]}` &&
      labels.dtype === "i32",
    "crossEntropy",
    "f32 logits [N, V] and i32 labels [N]",
    [logits, labels],
  );
  return logits.graph.node("crossEntropy", [logits, labels], {}, {
    shape: labels.shape,
    dtype: "f32",
  });
}

/** `bool` [N], which rows count, and `i32` [N, 1], their labels with 0 where they do not. */
function countedLabels({ node, inputs, emit, constant, scalar, ints }: OnnxContext): {
  readonly counts: string;
  readonly labels: string;
} {
  const ignored = constant(Int32Array.of(IGNORED_LABEL), []);
  const counts = emit("Not", [emit("Equal", [inputs[1], ignored])]);
  const labels = emit("Where", [counts, inputs[1], scalar(0, "i32")]);
  return { counts, labels: emit("Reshape", [labels, ints([node.inputs[1].shape[0], 1])]) };
}

function emitCrossEntropy(context: OnnxContext): string {
  const { node, inputs: [logits], emit, scalar, ints } = context;
  const { counts, labels } = countedLabels(context);
  // The backward pass needs the probabilities, so they give the normaliser too: at the largest logit,
  // log Σ exp = logit − log(probability), and that probability is at least 1 / V.
  const last = [ints([1])];
  const probability = emit("ReduceMax", [emit("Softmax", [logits], { axis: -1 }), ...last]);
  const largest = emit("ReduceMax", [logits, ...last]);
  const logSum = emit("Sub", [largest, emit("Log", [probability])]);
  const loss = emit("Sub", [logSum, emit("GatherElements", [logits, labels], { axis: 1 })]);
  return emit("Where", [counts, emit("Reshape", [loss, ints(node.shape)]), scalar(0)]);
}

function emitCrossEntropyGrad(context: OnnxContext): string {
  const { node, inputs: [logits, , g], emit, scalar, ints } = context;
  const { counts, labels } = countedLabels(context);
  const weight = emit("Reshape", [
    emit("Where", [counts, g, scalar(0)]),
    ints([node.shape[0], 1]),
  ]);
  const probabilities = emit("Softmax", [logits], { axis: -1 });
  return emit("ScatterElements", [
    emit("Mul", [probabilities, weight]),
    labels,
    emit("Neg", [weight]),
  ], { axis: 1, reduction: "add" });
}

/** The rules of `crossEntropy`. */
export const crossEntropyOperation: Operation = {
  name: "crossEntropy",
  gradient: (node, g) => {
    const [logits, labels] = node.inputs;
    return [() => logits.graph.node("crossEntropyGrad", [logits, labels, g], {}, logits), null];
  },
  onnx: { emit: emitCrossEntropy },
  flops: (node) => 5 * sizeOf(node.inputs[0].shape),
  kernel: {
    kind: "kernel",
    variants: (node, features) => {
      const [rows, length] = node.inputs[0].shape;
      const size = { rows, length, ignored: IGNORED_LABEL };
      return rowVariants((options) => crossEntropyKernel(size, options), features);
    },
  },
};

/**
 * The rules of `crossEntropyGrad`: (logits [N, V], labels [N], g [N]) → (softmax(logits) − onehot(label)) · g, rows
 * of zeros where the label is −100.
 */
export const crossEntropyGradOperation: Operation = {
  name: "crossEntropyGrad",
  gradient: null,
  onnx: { emit: emitCrossEntropyGrad },
  flops: (node) => 6 * sizeOf(node.shape),
  kernel: {
    kind: "kernel",
    variants: (node, features) => {
      const [rows, length] = node.shape;
      const size = { rows, length, ignored: IGNORED_LABEL };
      return rowVariants((options) => crossEntropyGradKernel(size, options), features);
    },
  },
};
