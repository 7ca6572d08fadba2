/**
 * `gather`: rows of a table, as an embedding looks them up; `scatterAdd`: adds rows into a table of zeros. Each is the gradient of the other.
 *
 * @module
 */
import { gatherKernel } from "../../kernels/gather.ts";
import { scatterAddKernel } from "../../kernels/scatter-add.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { cast } from "./cast.ts";
import { ONNX_TYPES, type OnnxContext } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { reshape } from "./reshape.ts";
import { checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/** Rows of `table` [V, D] at `ids` (`i32`, any shape S, each in [0, V)): [...S, D], in the table's type. */
export function gather(table: Value, ids: Value): Value {
  checkShapes(
    table.shape.length === 2 && ids.dtype === "i32",
    "gather",
    "a table of rank 2 and i32 ids",
    [table, ids],
  );
  const flat = reshape(ids, [-1]);
  const y = table.graph.node("gather", [table, flat], {}, {
    shape: [flat.shape[0], table.shape[1]],
    dtype: table.dtype,
  });
  return reshape(y, [...ids.shape, table.shape[1]]);
}

/** The rules of `gather`. */
export const gatherOperation: Operation = {
  name: "gather",
  gradient: (node, g) => {
    const [table, ids] = node.inputs;
    return [
      () => cast(scatterAdd(cast(g, "f32"), ids, { rows: table.shape[0] }), table.dtype),
      null,
    ];
  },
  onnx: { emit: ({ inputs, emit }) => emit("Gather", inputs, { axis: 0 }) },
  split: (node, isLarge) =>
    isLarge(node) ? { output: 0, inputs: [null, 0] } : { output: null, inputs: [0, null], ids: 1 },
  flops: () => 0,
  kernel: {
    kind: "kernel",
    variants: (node) => {
      const [rows, length] = node.inputs[0].shape;
      return [gatherKernel({ count: node.shape[0], rows, length }, node.dtype)];
    },
  },
};

/** How {@link scatterAdd} adds. */
export interface ScatterOptions {
  /** Rows of the table. */
  readonly rows: number;
  /** Whether no two ids are equal, but for rows of zeros, so that nothing has to be added up. */
  readonly unique?: boolean;
}

/** A table [rows, D] of zeros to which each row of `updates` [N, D] is added at its id in `ids` [N] (`i32`). */
export function scatterAdd(updates: Value, ids: Value, options: ScatterOptions): Value {
  checkShapes(
    updates.shape.length === 2 && ids.shape.length === 1 && ids.shape[0] === updates.shape[0] &&
      ids.dtype === "i32" && updates.dtype === "f32",
    "scatterAdd",
    "f32 updates [N, D] and i32 ids [N]",
    [updates, ids],
  );
  const shape = [options.rows, updates.shape[1]];
  const attributes = { shape, ...(options.unique ? { unique: true } : null) };
  return updates.graph.node("scatterAdd", [updates, ids], attributes, { shape, dtype: "f32" });
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
  split: (node, isLarge) =>
    isLarge(node) ? { output: 0, inputs: [null, null], ids: 1 } : { output: null, inputs: [0, 0] },
  flops: (node) => sizeOf(node.inputs[0].shape),
  kernel: {
    kind: "kernel",
    variants: (node) => {
      const [rows, length] = node.shape;
      const unique = node.attributes.unique === true;
      return [scatterAddKernel({ count: node.inputs[1].shape[0], rows, length, unique })];
    },
  },
};
