/**
 * `cacheUpdate`: writes new keys or values into a cache.
 *
 * @module
 */
import { cacheUpdateKernel } from "../../kernels/cache-update.ts";
import { ONNX_TYPES, type OnnxContext } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/**
 * The cache [B, S, H, D] with rows offset … offset + T of its second axis replaced by `rows` [B, T, H, D]. `offset` is `i32` [1] and
 * offset + T ≤ S. Where the cache is a state that nothing else reads, devices write in place.
 */
export function cacheUpdate(cache: Value, rows: Value, options: { readonly offset: Value }): Value {
  const { offset } = options;
  checkShapes(
    cache.shape.length === 4 && rows.shape.length === 4 && rows.dtype === cache.dtype &&
      [0, 2, 3].every((i) => cache.shape[i] === rows.shape[i]) && rows.shape[1] <= cache.shape[1] &&
      offset.dtype === "i32" && offset.shape.join() === "1",
    "cacheUpdate",
    "a cache [B, S, H, D], rows [B, T ≤ S, H, D] and an i32 offset [1]",
    [cache, rows, offset],
  );
  return cache.graph.node("cacheUpdate", [cache, rows, offset], {}, cache);
}

function emitCacheUpdate({ node, inputs, emit, constant, ints }: OnnxContext): string {
  const [cache, rows, offset] = inputs;
  const [b, s, h, d] = node.shape, t = node.inputs[1].shape[1];
  if (t === s) return rows;
  // One index (sample, position) per new row; the position counts from the offset.
  const index = new BigInt64Array(b * t * 2);
  for (let i = 0; i < b * t; i++) index.set([BigInt(Math.floor(i / t)), BigInt(i % t)], 2 * i);
  const shift = emit("Concat", [
    constant(new BigInt64Array(1), [1]),
    emit("Cast", [offset], { to: ONNX_TYPES.i64 }),
  ], { axis: 0 });
  return emit("ScatterND", [
    cache,
    emit("Add", [constant(index, [b * t, 2]), shift]),
    emit("Reshape", [rows, ints([b * t, h, d])]),
  ]);
}

/** The rules of `cacheUpdate`; caches are not trained through. */
export const cacheUpdateOperation: Operation = {
  name: "cacheUpdate",
  gradient: null,
  onnx: { emit: emitCacheUpdate },
  split: null,
  flops: () => 0,
  kernel: {
    kind: "kernel",
    inPlace: 0,
    variants: (node) => {
      const [batch, capacity, heads, depth] = node.shape;
      const rows = node.inputs[1].shape[1];
      return [cacheUpdateKernel({ batch, capacity, rows, length: heads * depth }, node.dtype)];
    },
  },
};
