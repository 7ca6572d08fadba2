import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import {
  disjointMerge,
  dropAndRescale,
  electSigns,
  keepLargest,
  mergeTasks,
  type MergeTasksOptions,
} from "../../lib/methods/prune-and-merge.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";

const of = (...values: number[]) => Float64Array.from(values);

Deno.test("the largest values stay, of equal ones the first", () => {
  const task = of(0.5, -3, 0, 2, -0.5, 2);
  assertEquals([...keepLargest(task, 0.5)], [0, -3, 0, 2, 0, 2]);
  assertEquals([...keepLargest(task, 0.34)], [0, -3, 0, 2, 0, 0]);
  assertEquals([...keepLargest(task, 4 / 6)], [0.5, -3, 0, 2, 0, 2]);
  // 0.3 · 6 is rounded down to 1, and nothing stays of less than one.
  assertEquals([...keepLargest(task, 0.3)], [0, -3, 0, 0, 0, 0]);
  assertEquals([...keepLargest(task, 0.1)], [0, 0, 0, 0, 0, 0]);
  assertEquals([...keepLargest(of(0, 0, 0), 0.7)], [0, 0, 0]);
});

Deno.test("what is dropped follows torch, and the expectation stays", () => {
  const task = Float64Array.from({ length: 4000 }, (_, i) => i % 7 + 1);
  const kept = createTorchRandom(3).bernoulli(4000, 0.3);
  const dropped = dropAndRescale(task, { density: 0.3, random: createTorchRandom(3) });
  assertEquals([...dropped], [...task].map((x, i) => kept[i] ? x / 0.3 : 0));
  const sum = (x: Float64Array) => x.reduce((a, b) => a + b, 0);
  assert(Math.abs(sum(dropped) / sum(task) - 1) < 0.1);
  const none = dropAndRescale(task, { density: 0, random: createTorchRandom(3) });
  assert(none.every((x) => x === 0));
});

Deno.test("signs are elected by weight or by number", () => {
  const tasks = [of(5, -1, 0, 1, -2), of(-1, -1, 0, -1, 1), of(-1, 3, 0, 0, 0)];
  assertEquals([...electSigns(tasks, "total")], [1, 1, 1, 1, -1]);
  assertEquals([...electSigns(tasks, "frequency")], [-1, -1, 1, 1, 1]);
});

Deno.test("only values of the elected sign are averaged", () => {
  const tasks = [of(4, -1, 0), of(2, 3, 0), of(-8, 5, 0)];
  const signs = Int8Array.of(1, 1, 1);
  const merged = disjointMerge(tasks, { weights: [0.5, 2, -1], signs });
  assertEquals([...merged], [(0.5 * 4 + 2 * 2) / 2, (2 * 3 - 5) / 2, 0]);
});

Deno.test("each way is made of its steps", () => {
  const tasks = [of(4, -1, 0.5, 2), of(-2, -3, 1, 0.25)];
  const merge = (kind: MergeTasksOptions["kind"], density: number) => [
    ...mergeTasks(tasks, {
      kind,
      density,
      weights: [0.5, -1],
      majoritySignMethod: "total",
      random: createTorchRandom(1),
    }),
  ];
  assertEquals(merge("linear", 0.5), [4, 2.5, -0.75, 0.75]);
  assertEquals(merge("magnitude_prune", 0.5), [4, 3, 0, 1]);
  // Elected: + (4 over −2), −, + (nothing is left), +.
  assertEquals(merge("ties", 0.5), [2, 3, 0, 1]);
  assertEquals(merge("ties", 1), [2, (-0.5 + 3) / 2, (0.25 - 1) / 2, (1 - 0.25) / 2]);
  assertEquals(merge("dare_linear", 1), merge("linear", 1));
  const random = createTorchRandom(1);
  const [a, b] = [random.bernoulli(4, 0.5), random.bernoulli(4, 0.5)];
  merge("dare_linear", 0.5).forEach((x, i) =>
    assertAlmostEquals(x, (0.5 * tasks[0][i] * a[i] - tasks[1][i] * b[i]) / 0.5, 1e-12)
  );
});
