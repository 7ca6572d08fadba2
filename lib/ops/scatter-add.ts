/**
 * `scatterAdd`: adds rows into a table of zeros, the gradient of a lookup.
 *
 * @module
 */
import { scatterAddKernel } from "../../kernels/scatter-add.ts";
import { ONNX_TYPES, type OnnxContext } from "./onnx-rule.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { gather } from "./gather.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/** A table [rows, D] of zeros to which each row of `updates` [N, D] is added at its id in `ids` [N] (`i32`). */
export function scatterAdd(updates: Value, ids: Value, options: { readonly rows: number }): Value {
  checkShapes(
    updates.shape.length === 2 && ids.shape.length === 1 && ids.shape[0] === updates.shape[0] &&
      ids.dtype === "i32" && updates.dtype === "f32",
    "scatterAdd",
    "f32 updates [N, D] and i32 ids [N]",
    [updates, ids],
  );
  return updates.graph.node("scatterAdd", [updates, ids], { rows: options.rows }, {
    shape: [options.rows, updates.shape[1]],
    dtype: "f32",
  });
}

function emitScatterAdd({ node, inputs, emit, scalar, ints }: OnnxContext): string {
  const ids = emit("Cast", [inputs[1]], { to: ONNX_TYPES.i64 });
  return emit("ScatterND", [
    emit("Expand", [scalar(0), ints(node.shape)]),
    emit("Reshape", [ids, ints([node.inputs[1].shape[0], 1])]),
    inputs[0],
  ], { reduction: "add" });
}

/** The rules of `scatterAdd`. */
export const scatterAddOperation: Operation = {
  name: "scatterAdd",
  gradient: (node, g) => [() => gather(g, node.inputs[1]), null],
  onnx: { emit: emitScatterAdd },
  flops: (node) => sizeOf(node.inputs[0].shape),
  kernel: {
    kind: "kernel",
    variants: (node) => {
      const [rows, length] = node.shape;
      return [scatterAddKernel({ count: node.inputs[1].shape[0], rows, length })];
    },
  },
};
