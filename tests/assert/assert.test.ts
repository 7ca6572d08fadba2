import {
  assert,
  assertAlmostEquals,
  assertArrayIncludes,
  assertEquals,
  assertExists,
  assertGreater,
  assertInstanceOf,
  AssertionError,
  assertIsError,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
  assertNotInstanceOf,
  assertNotMatch,
  assertObjectMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
  fail,
} from "@std/assert";

/** The message of the AssertionError that `verify` throws. */
const failure = (verify: () => void): string => assertThrows(verify, AssertionError).message;

Deno.test("assertEquals takes -0 for 0 and NaN for itself at every depth", () => {
  assertEquals(-0, 0);
  assertEquals([{ x: -0 }, NaN], [{ x: 0 }, NaN]);
  assertEquals(new Float32Array([-0, NaN, 3]), new Float32Array([0, NaN, 3]));
  assertEquals({ a: new Float32Array([-0, 1]), b: undefined }, {
    a: new Float32Array([0, 1]),
    b: undefined,
  });
  assertEquals(new Map([["a", [-0]]]), new Map([["a", [0]]]));
  assertEquals(new Set<unknown>([[-0], [1]]), new Set<unknown>([[1], [0]]));
  assertEquals<unknown>([Object.create(null), -0], [{}, 0]);
  assertEquals([new Date(5), /a/g, -0], [new Date(5), /a/g, 0]);
  assertEquals([new URL("file:///a"), -0], [new URL("file:///a"), 0]);
});

Deno.test("assertEquals tells unequal values apart", () => {
  const pairs: readonly (readonly [unknown, unknown])[] = [
    [1, 2],
    [1, "1"],
    [1, 1n],
    [null, undefined],
    [[1, 2], [1, 3]],
    [[1, 2], [1, 2, 3]],
    [{ a: 1 }, { a: 1, b: undefined }],
    [new Float32Array([1, 2]), new Float64Array([1, 2])],
    [new Float32Array([1, -0]), new Float32Array([2, 0])],
    [new Uint8Array([1]).buffer, new Uint8Array([2]).buffer],
    [new Map([["a", -0]]), new Map([["b", 0]])],
    [new Set([1, -0]), new Set([2, 0])],
    [[new Date(5), -0], [new Date(6), 0]],
    [[/a/g, -0], [/a/i, 0]],
    [[new URL("file:///a"), -0], [new URL("file:///b"), 0]],
    [new Error("a"), new Error("b")],
    [new Error("a"), new TypeError("a")],
  ];
  for (const [left, right] of pairs) {
    failure(() => assertEquals(left, right));
    failure(() => assertEquals(right, left));
    assertNotEquals(left, right);
  }
  failure(() => assertNotEquals([-0], [0]));
});

Deno.test("assertEquals follows cycles", () => {
  const cycle = (value: number) => {
    const node: Record<string, unknown> = { value };
    node.self = node;
    return node;
  };
  assertEquals(cycle(-0), cycle(0));
  assertNotEquals(cycle(1), cycle(2));
});

Deno.test("a long array's difference is told in a line", () => {
  const actual = new Float32Array(100_000).fill(2);
  const expected = actual.map((value, i) => i % 1000 === 7 ? 3 : value);
  const message = failure(() => assertEquals(actual, expected, "weights"));
  assertStringIncludes(message, "100 of 100000 elements differ, the first at [7]");
  assertStringIncludes(message, ": weights");
});

Deno.test("assertAlmostEquals has a tolerance relative to what was expected", () => {
  assertAlmostEquals(1e8 + 5, 1e8);
  assertAlmostEquals(0.1 + 0.2, 0.3);
  assertAlmostEquals(1.5, 1, 0.5);
  assertAlmostEquals(NaN, NaN);
  assertAlmostEquals(Infinity, Infinity);
  failure(() => assertAlmostEquals(1e-9, 0));
  failure(() => assertAlmostEquals(1.01, 1, 0.001));
  failure(() => assertAlmostEquals(NaN, 1, 10));
  failure(() => assertAlmostEquals(1, NaN, 10));
});

Deno.test("assertThrows checks class and message and returns the error", () => {
  const error = new RangeError("rank 0 of q_proj");
  const thrower = () => {
    throw error;
  };
  assertStrictEquals(assertThrows(thrower), error);
  assertStrictEquals(assertThrows(thrower, RangeError, "q_proj", "msg"), error);
  assertStrictEquals(assertThrows(thrower, Error), error);
  assertStringIncludes(failure(() => assertThrows(thrower, TypeError)), "RangeError");
  assertStringIncludes(failure(() => assertThrows(thrower, RangeError, "v_proj")), "q_proj");
  assertStringIncludes(failure(() => assertThrows(() => 1, "because")), "because");
  failure(() =>
    assertThrows(() => {
      throw "text";
    }, Error)
  );
  assertIsError(error, RangeError, /^rank \d/);
});

Deno.test("assertRejects wants a rejected promise, not a throw", async () => {
  const error = new TypeError("dtype i3");
  assertStrictEquals(await assertRejects(() => Promise.reject(error), TypeError, "i3"), error);
  assertStrictEquals(await assertRejects(() => Promise.reject(error)), error);
  await assertRejects(() => assertRejects(() => Promise.resolve(1)), AssertionError);
  await assertRejects(
    () => assertRejects(() => Promise.reject(error), RangeError),
    AssertionError,
    "TypeError",
  );
  await assertRejects(
    () =>
      assertRejects(() => {
        throw error;
      }, TypeError),
    AssertionError,
    "throws when expected to reject",
  );
});

Deno.test("the other assertions fail where they should", () => {
  assert(1);
  failure(() => assert(0, "zero"));
  failure(() => assertStrictEquals([1], [1]));
  assertInstanceOf(new RangeError("a"), Error);
  failure(() => assertInstanceOf(null, Error));
  assertNotInstanceOf(1, Error);
  failure(() => assertNotInstanceOf(new Error("a"), Error));
  assertStringIncludes("q_proj", "_p");
  failure(() => assertStringIncludes("q_proj", "v"));
  assertMatch("layers.10", /\d+$/);
  failure(() => assertMatch("layers", /\d+$/));
  failure(() => assertNotMatch("layers.10", /\d+$/));
  assertExists(0);
  failure(() => assertExists(undefined));
  assertArrayIncludes([[1], [-0]], [[0]]);
  failure(() => assertArrayIncludes([1, 2], [2, 3]));
  assertObjectMatch({ a: { b: 1, c: 2 } }, { a: { b: 1 } });
  failure(() => assertObjectMatch({ a: { b: 1 } }, { a: { b: 2 } }));
  assertGreater(2, 1);
  failure(() => assertGreater(NaN, 1));
  assertLessOrEqual(2, 2);
  failure(() => assertLessOrEqual(3, 2));
  assertStringIncludes(failure(() => fail("reason")), "reason");
});
