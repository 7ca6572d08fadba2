/**
 * A stand-in for `jsr:@std/assert`, on `node:assert`, for machines that cannot reach JSR.
 *
 * `deno.json` points the `jsr:` specifier here through its `links`; deleting that one line gives
 * the real package, whose names and signatures these are.
 *
 * @module
 */

import assertStrict, { AssertionError as NodeAssertionError } from "node:assert/strict";
import { equal } from "./equal.ts";
import { AssertionError, show, suffix } from "./failure.ts";

export { AssertionError, equal };
export { assertIsError, assertRejects, assertThrows, type ErrorClass } from "./throws.ts";

/** Any constructor, abstract ones included. */
// deno-lint-ignore no-explicit-any
export type AnyConstructor = abstract new (...args: any[]) => any;

/** The type of what a constructor makes. */
export type GetConstructorType<C extends AnyConstructor> = InstanceType<C>;

/** Anything with a length and numbered elements. */
export type ArrayLikeArg<T> = ArrayLike<T> & object;

/** Runs a `node:assert` check and rethrows its failure as an {@linkcode AssertionError}. */
function check(verify: () => void, msg: string | undefined): void {
  try {
    verify();
  } catch (cause) {
    if (!(cause instanceof NodeAssertionError)) throw cause;
    throw new AssertionError(msg ? `${cause.message}: ${msg}` : cause.message);
  }
}

/** How two unequal values differ; short for long arrays, whose full listing takes minutes. */
function describeDifference(actual: unknown, expected: unknown): string {
  const [a, b] = [actual, expected].map((value) =>
    Array.isArray(value) ||
      (ArrayBuffer.isView(value) && !(value instanceof DataView))
      ? value as unknown as ArrayLike<unknown>
      : undefined
  );
  if (a && b && a.length === b.length && a.length > 64) {
    const differing = Array.from(a, (_, i) => i).filter((i) => !equal(a[i], b[i]));
    const [first] = differing;
    if (first !== undefined) {
      return `Values are not equal: ${differing.length} of ${a.length} elements differ, ` +
        `the first at [${first}]: actual ${show(a[first])}, expected ${show(b[first])}`;
    }
  }
  try {
    assertStrict.deepStrictEqual(actual, expected);
  } catch (error) {
    if (error instanceof NodeAssertionError) return error.message;
    throw error;
  }
  return `Values are not equal: ${show(actual)} and ${show(expected)}`;
}

/** Throws unless `expr` is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

/** Throws unless `actual` and `expected` are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  throw new AssertionError(
    `${describeDifference(actual, expected)}${suffix(msg)}`,
  );
}

/** Throws if `actual` and `expected` are deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!equal(actual, expected)) return;
  throw new AssertionError(
    `Expected values to differ, but both are ${show(actual)}${suffix(msg)}`,
  );
}

/** Throws unless `actual` and `expected` are the same value (`Object.is`). */
export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  msg?: string,
): asserts actual is T {
  check(() => assertStrict.strictEqual(actual, expected), msg);
}

/**
 * Throws unless `actual` and `expected` differ by at most `tolerance`; by default 1e-7 of
 * `expected`, so an expected 0 wants a tolerance of its own.
 */
export function assertAlmostEquals(
  actual: number,
  expected: number,
  tolerance?: number,
  msg?: string,
): void {
  if (Object.is(actual, expected)) return;
  const allowed = tolerance ??
    (Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7);
  const difference = Math.abs(expected - actual);
  // Written so that NaN fails.
  if (difference <= allowed) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to be close to "${expected}": delta "${difference}" is greater than "${allowed}"${
      suffix(msg)
    }`,
  );
}

/** Throws if `expr` is truthy. */
export function assertFalse(expr: unknown, msg = ""): asserts expr is false {
  if (expr) throw new AssertionError(msg);
}

/** Throws if `actual` and `expected` are the same value (`Object.is`). */
export function assertNotStrictEquals<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  check(() => assertStrict.notStrictEqual(actual, expected), msg);
}

/** Throws unless `actual` is an instance of `expectedType`. */
export function assertInstanceOf<T extends AnyConstructor>(
  actual: unknown,
  expectedType: T,
  msg = "",
): asserts actual is GetConstructorType<T> {
  if (actual instanceof expectedType) return;
  const found = actual === null || typeof actual !== "object"
    ? show(actual)
    : `an instance of "${actual.constructor?.name ?? "Object"}"`;
  throw new AssertionError(
    `Expected object to be an instance of "${expectedType.name}" but was ${found}${suffix(msg)}`,
  );
}

/** Throws unless `actual` contains `expected`. */
export function assertStringIncludes(
  actual: string,
  expected: string,
  msg?: string,
): void {
  if (actual.includes(expected)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to contain: "${expected}"${suffix(msg)}`,
  );
}

/** Throws unless `actual` matches `expected`. */
export function assertMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  check(() => assertStrict.match(actual, expected), msg);
}

/** Throws if `actual` matches `expected`. */
export function assertNotMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  check(() => assertStrict.doesNotMatch(actual, expected), msg);
}

/** Throws if `actual` is an instance of `unexpectedType`. */
export function assertNotInstanceOf<A, T>(
  actual: A,
  // deno-lint-ignore no-explicit-any
  unexpectedType: abstract new (...args: any[]) => T,
  msg?: string,
): asserts actual is Exclude<A, T> {
  if (!(actual instanceof unexpectedType)) return;
  throw new AssertionError(
    `Expected object to not be an instance of "${unexpectedType.name}"${suffix(msg)}`,
  );
}

/** Throws unless `actual` has the properties of `expected`, nested ones included. */
export function assertObjectMatch(
  // deno-lint-ignore no-explicit-any
  actual: Record<PropertyKey, any>,
  expected: Record<PropertyKey, unknown>,
  msg?: string,
): void {
  check(() => assertStrict.partialDeepStrictEqual(actual, expected), msg);
}

/** Throws if `actual` is `null` or `undefined`. */
export function assertExists<T>(
  actual: T,
  msg?: string,
): asserts actual is NonNullable<T> {
  if (actual !== undefined && actual !== null) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not be null or undefined${suffix(msg)}`,
  );
}

/** Throws unless every element of `expected` is deeply equal to one of `actual`. */
export function assertArrayIncludes<T>(
  actual: ArrayLikeArg<T>,
  expected: ArrayLikeArg<T>,
  msg?: string,
): void {
  const found = Array.from(actual);
  const missing = Array.from(expected).filter((wanted) => !found.some((x) => equal(x, wanted)));
  if (missing.length === 0) return;
  throw new AssertionError(
    `Expected actual: "${show(actual)}" to include: "${show(expected)}"${suffix(msg)}\nmissing: ${
      show(missing)
    }`,
  );
}

/** Throws unless `actual` is greater than `expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (actual > expected) return;
  throw new AssertionError(
    `Expect ${show(actual)} > ${show(expected)}${suffix(msg)}`,
  );
}

/** Throws unless `actual` is greater than or equal to `expected`. */
export function assertGreaterOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual >= expected) return;
  throw new AssertionError(
    `Expect ${show(actual)} >= ${show(expected)}${suffix(msg)}`,
  );
}

/** Throws unless `actual` is less than `expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (actual < expected) return;
  throw new AssertionError(
    `Expect ${show(actual)} < ${show(expected)}${suffix(msg)}`,
  );
}

/** Throws unless `actual` is less than or equal to `expected`. */
export function assertLessOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual <= expected) return;
  throw new AssertionError(
    `Expect ${show(actual)} <= ${show(expected)}${suffix(msg)}`,
  );
}

/** Always throws. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${suffix(msg)}`);
}

/** Always throws: for a place that no run reaches. */
export function unreachable(msg?: string): never {
  throw new AssertionError(`Unreachable${suffix(msg)}`);
}

/** Always throws: for what is not written yet. */
export function unimplemented(msg?: string): never {
  throw new AssertionError(`Unimplemented${suffix(msg)}`);
}
