import { assert, assertAlmostEquals, assertEquals, assertNotEquals } from "@std/assert";
import { randomBits, randomNormal, randomOrder, randomUniform } from "../../lib/tensor/random.ts";

Deno.test("the same place holds the same number, other places hold others", () => {
  const at = (seed: number, stream: number, index: number) => randomBits({ seed, stream, index });
  assertEquals(at(1, 2, 3), at(1, 2, 3));
  const seen = new Set<number>();
  for (let seed = 0; seed < 10; seed++) {
    for (let stream = 0; stream < 10; stream++) {
      for (let index = 0; index < 10; index++) seen.add(at(seed, stream, index));
    }
  }
  assert(seen.size >= 999, `${seen.size} of 1000 differ`);
  assertEquals(randomBits({ seed: 5, index: 7 }), at(5, 0, 7));
});

Deno.test("uniform numbers fill [0, 1) evenly", () => {
  const bins = new Array<number>(10).fill(0);
  for (let index = 0; index < 10000; index++) {
    const u = randomUniform({ seed: 3, index });
    assert(u >= 0 && u < 1);
    bins[Math.floor(u * 10)]++;
  }
  for (const count of bins) assert(Math.abs(count - 1000) < 150, `${bins}`);
});

Deno.test("normal numbers have the mean and the deviation asked for", () => {
  const x = randomNormal(9999, { seed: 4, std: 0.5 });
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  const variance = x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length;
  assertAlmostEquals(mean, 0, 0.02);
  assertAlmostEquals(Math.sqrt(variance), 0.5, 0.01);
  assert(x.every(Number.isFinite));
  assertNotEquals(x, randomNormal(9999, { seed: 5, std: 0.5 }));
});

Deno.test("an order holds every number once and depends on seed and stream", () => {
  const order = randomOrder(50, { seed: 1 });
  assertEquals(order.toSorted((a, b) => a - b), Array.from({ length: 50 }, (_, i) => i));
  assertEquals(order, randomOrder(50, { seed: 1 }));
  assertNotEquals(order, randomOrder(50, { seed: 2 }));
  assertNotEquals(order, randomOrder(50, { seed: 1, stream: 1 }));
});
