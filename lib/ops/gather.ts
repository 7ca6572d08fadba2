/**
 * `gather`: rows of a table, as an embedding looks them up.
 *
 * @module
 */
import { gatherKernel } from "../../kernels/gather.ts";
import { cast } from "./cast.ts";
import type { Operation } from "./operation.ts";
import { reshape } from "./reshape.ts";
import { scatterAdd } from "./scatter-add.ts";
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
  flops: () => 0,
  kernel: {
    kind: "kernel",
    variants: (node) => {
      const [rows, length] = node.inputs[0].shape;
      return [gatherKernel({ count: node.shape[0], rows, length }, node.dtype)];
    },
  },
};
