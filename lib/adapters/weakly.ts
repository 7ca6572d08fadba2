/**
 * Values that are made when they are needed and forgotten when nobody holds them.
 *
 * @module
 */

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
