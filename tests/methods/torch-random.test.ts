import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { ValueError } from "../../lib/errors.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";

interface Step {
  readonly call: "uniform" | "normal" | "permutation" | "bernoulli" | "gamma";
  readonly size: number;
  readonly probability?: number;
  readonly last?: number;
  readonly values: readonly number[];
}

const { cases } = JSON.parse(
  await Deno.readTextFile(new URL("torch-random.golden.json", import.meta.url)),
) as { readonly cases: readonly { readonly seed: number; readonly steps: readonly Step[] }[] };

for (const { seed, steps } of cases) {
  Deno.test(`seed ${seed}: the numbers are torch's, call after call`, () => {
    const random = createTorchRandom(seed);
    for (const [i, { call, size, last, values, probability, ...options }] of steps.entries()) {
      const made = call === "permutation"
        ? random.permutation(size)
        : call === "bernoulli"
        ? random.bernoulli(size, probability!)
        : call === "gamma"
        ? random.gamma(Array.from({ length: size }, (_, i) => (i + 1) / 2))
        : random[call](size, options);
      assertEquals(made.length, size);
      const found = last ? made.slice(-last) : made;
      assertEquals(found.length, values.length);
      const what = `step ${i}, ${call}(${size})`;
      if (call !== "normal") assertEquals([...found], [...values], what);
      // torch approximates logarithm, sine and cosine for eight numbers at once; this is what that changes.
      else values.forEach((v, j) => assertAlmostEquals(found[j], v, 5e-7, `${what}[${j}]`));
    }
  });
}

Deno.test("skip moves on as uniform does", () => {
  const [a, b] = [createTorchRandom(5), createTorchRandom(5)];
  for (const size of [1, 623, 0, 624, 1000]) {
    a.uniform(size);
    b.skip(size);
  }
  assertEquals(a.uniform(3), b.uniform(3));
});

Deno.test("small normal tensors share their pairs across calls", () => {
  const [a, b] = [createTorchRandom(9), createTorchRandom(9)];
  const together = a.normal(6);
  assertEquals([...b.normal(1), ...b.normal(2), ...b.normal(3)], [...together]);
});

Deno.test("a fork goes on from where its stream is, on its own", () => {
  const random = createTorchRandom(7);
  random.uniform(1000);
  random.normal(3);
  const fork = random.fork();
  const next = [...random.normal(5), ...random.uniform(700)];
  assertEquals([...fork.normal(5), ...fork.uniform(700)], next);
});

Deno.test("streams are apart, and a seed is a whole number", () => {
  const [a, b] = [createTorchRandom(2), createTorchRandom(2)];
  a.normal(99);
  assertEquals(b.uniform(4), createTorchRandom(2).uniform(4));
  for (const seed of [0.5, NaN, 2 ** 60]) {
    assertThrows(() => createTorchRandom(seed), ValueError, String(seed));
  }
});
