import { assertAlmostEquals, assertThrows } from "@std/assert";
import { ValueError } from "../../lib/errors.ts";
import { learningRateFactor, type Schedule } from "../../lib/training/schedule.ts";

// transformers 5.18: get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=10), rate 1, at steps 0, 2, 3, 6 and 9.
const EXPECTED: Record<Schedule, number[]> = {
  constant: [0, 2 / 3, 1, 1, 1],
  linear: [0, 2 / 3, 1, 4 / 7, 1 / 7],
  cosine: [0, 2 / 3, 1, 0.6112604669781572, 0.04951556604879043],
};

for (const [schedule, factors] of Object.entries(EXPECTED)) {
  Deno.test(`${schedule} schedule with warm-up`, () => {
    [0, 2, 3, 6, 9].forEach((step, i) => {
      const factor = learningRateFactor(schedule as Schedule, { step, steps: 10, warmupSteps: 3 });
      assertAlmostEquals(factor, factors[i], 1e-12);
    });
  });
}

Deno.test("an unknown schedule is an error", () => {
  assertThrows(
    () => learningRateFactor("square" as Schedule, { step: 5, steps: 10 }),
    ValueError,
    "constant, linear, cosine",
  );
});
