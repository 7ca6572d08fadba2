import { isDeepStrictEqual } from "node:util";

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;

/** A value's class; an object without a prototype counts as a plain one. */
const classOf = (value: object): unknown => value.constructor ?? Object;

const opaque = [ArrayBuffer, DataView, Date, RegExp, URL, WeakMap, WeakRef, WeakSet];

/** The string and symbol keys that a spread would copy. */
const ownKeys = (value: object): readonly PropertyKey[] => [
  ...Object.keys(value),
  ...Object.getOwnPropertySymbols(value).filter((key) =>
    Object.prototype.propertyIsEnumerable.call(value, key)
  ),
];

/**
 * Whether two values are deeply equal, as `assertEquals` sees it: structure, classes and values
 * agree, `NaN` equals itself, and `-0` equals `0` at every depth, which is where this differs from
 * `node:assert`.
 *
 * @param actual any value.
 * @param expected the value it is compared with.
 * @returns true when they are equal.
 */
export function equal(actual: unknown, expected: unknown): boolean {
  return isDeepStrictEqual(actual, expected) ||
    compare(actual, expected, new Map());
}

function compare(a: unknown, b: unknown, seen: Map<object, object>): boolean {
  if (typeof a === "number" && typeof b === "number") {
    return a === b || (Number.isNaN(a) && Number.isNaN(b));
  }
  if (!isObject(a) || !isObject(b)) return Object.is(a, b);
  if (a === b || seen.get(a) === b) return true;
  if (classOf(a) !== classOf(b)) return false;
  seen.set(a, b);
  if (ArrayBuffer.isView(a) && !(a instanceof DataView)) {
    const [x, y] = [a, b] as unknown as readonly [
      ArrayLike<unknown>,
      ArrayLike<unknown>,
    ];
    if (x.length !== y.length) return false;
    for (let i = 0; i < x.length; i++) {
      if (!compare(x[i], y[i], seen)) return false;
    }
    return true;
  }
  if (a instanceof Map && b instanceof Map) {
    return a.size === b.size && pairUp([...a], [...b], seen);
  }
  if (a instanceof Set && b instanceof Set) {
    return a.size === b.size && pairUp([...a], [...b], seen);
  }
  if (a instanceof Error && b instanceof Error) {
    if (a.name !== b.name || a.message !== b.message) return false;
    return compare(a.cause, b.cause, seen);
  }
  // What these hold is not in their keys.
  if (opaque.some((type) => a instanceof type)) return isDeepStrictEqual(a, b);
  const keys = ownKeys(a);
  const read = (value: object, key: PropertyKey) => (value as Record<PropertyKey, unknown>)[key];
  return keys.length === ownKeys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && compare(read(a, key), read(b, key), seen));
}

/** Whether each element of one list equals a different element of the other. */
function pairUp(
  left: readonly unknown[],
  right: readonly unknown[],
  seen: Map<object, object>,
): boolean {
  const rest = [...right];
  return left.every((value) => {
    // Pairs that turn out unequal must leave no trace in `seen`.
    const found = rest.findIndex((other) => compare(value, other, new Map(seen)));
    if (found < 0) return false;
    rest.splice(found, 1);
    return true;
  });
}
