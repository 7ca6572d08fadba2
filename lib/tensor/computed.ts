/**
 * Contents that are made when they are first needed, and perhaps forgotten when nobody holds them.
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

/**
 * Makes a value at most once for as long as somebody holds it, and again when it is needed after
 * that.
 *
 * @param make Makes the value, the same each time.
 */
export function weakly<T extends object>(make: () => Promise<T>): () => Promise<T> {
  let kept: WeakRef<T> | undefined;
  let pending: Promise<T> | undefined;
  return () => {
    const known = kept?.deref();
    if (known) return Promise.resolve(known);
    pending ??= make().then((value) => {
      kept = new WeakRef(value);
      return value;
    }).finally(() => {
      pending = undefined;
    });
    return pending;
  };
}

/** An f32 tensor whose contents are made once, when they are first read. */
export function computedTensor(
  shape: readonly number[],
  make: () => Promise<Float32Array>,
  where: Tensor["where"] = "host",
): Tensor {
  return { dtype: "f32", shape, where, data: once(make) };
}
