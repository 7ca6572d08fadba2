/**
 * Contents that are made when they are first needed.
 *
 * @module
 */
import type { Tensor } from "./tensor.ts";

/** Runs something at most once, and again only after it failed. */
export function once<T>(make: () => Promise<T>): () => Promise<T> {
  let pending: Promise<T> | undefined;
  return () => {
    pending ??= make().catch((error) => {
      pending = undefined;
      throw error;
    });
    return pending;
  };
}

/** What is known under a key, made at most once, and again only after it failed. */
export function remembered<K, T>(
  known: Map<K, Promise<T>>,
  key: K,
  make: () => Promise<T>,
): Promise<T> {
  const found = known.get(key);
  if (found) return found;
  const made = make();
  known.set(key, made);
  made.catch(() => known.delete(key));
  return made;
}

/** An f32 tensor whose contents are made once, when they are first read. */
export function computedTensor(
  shape: readonly number[],
  make: () => Promise<Float32Array>,
  where: Tensor["where"] = "host",
): Tensor {
  return { dtype: "f32", shape, where, data: once(make) };
}
