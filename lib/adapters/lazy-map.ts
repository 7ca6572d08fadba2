/**
 * Maps that are made when they are first looked into.
 *
 * @module
 */

/**
 * A map that takes no memory until somebody looks into it.
 *
 * @param make Makes the entries, at most once.
 */
export function lazyMap<K, V>(make: () => Iterable<readonly [K, V]>): ReadonlyMap<K, V> {
  let made: ReadonlyMap<K, V> | undefined;
  const map = (): ReadonlyMap<K, V> => made ??= new Map(make());
  return {
    get size() {
      return map().size;
    },
    get: (key) => map().get(key),
    has: (key) => map().has(key),
    keys: () => map().keys(),
    values: () => map().values(),
    entries: () => map().entries(),
    forEach: (fn, self) => map().forEach(fn, self),
    [Symbol.iterator]: () => map()[Symbol.iterator](),
  };
}
