import { assertEquals, assertThrows } from "@std/assert";
import { ValueError } from "../../lib/errors.ts";
import { createNumpyRandom } from "../../lib/methods/numpy-random.ts";
import golden from "./numpy-random.golden.json" with { type: "json" };

const sketch = (values: Int32Array) => values.reduce((sum, x, i) => sum + i * x, 0);

for (const { seed, words, choices, shuffled, next } of golden.cases) {
  Deno.test(`numbers of numpy's generator from the seed ${seed}`, () => {
    const random = createNumpyRandom(seed);
    assertEquals([...random.words(words.length)], words);
    for (const { population, size, first, last, sum } of choices) {
      const got = random.choice(population, size);
      assertEquals(new Set(got).size, size);
      assertEquals([[...got.slice(0, 3)], [...got.slice(-3)], sketch(got)], [first, last, sum]);
    }
    const ordered = Int32Array.from({ length: shuffled.size }, (_, i) => i);
    const got = random.shuffled(ordered);
    assertEquals([[...got.slice(0, 5)], sketch(got)], [shuffled.first, shuffled.sum]);
    assertEquals(ordered[1], 1);
    assertEquals([...random.words(1)], next);
  });
}

Deno.test("a seed of numpy is a whole number from 0 on", () => {
  for (const seed of [-1, 0.5, 2 ** 60, NaN]) {
    assertThrows(() => createNumpyRandom(seed), ValueError, "whole number");
  }
});
