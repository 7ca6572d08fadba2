import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { ValueError } from "../../lib/errors.ts";
import {
  argmax,
  drawToken,
  processLogits,
  SAMPLING_RULES,
  type SamplingOptions,
} from "../../lib/generation/sampling.ts";
import { checkOptions } from "../../lib/options.ts";

const LOGITS = Float32Array.of(2, -1.5, 0.25, 3, 3, -0.5, 1, 0.25);
const OCCURRED = new Set([3, 1, 5]);

// What transformers 5.18's RepetitionPenaltyLogitsProcessor(1.3) and then TemperatureLogitsWarper(0.7) give.
const PENALIZED = [2, -1.95, 0.25, 2.307692, 3, -0.65, 1, 0.25];
const TEMPERED = [
  2.857143,
  -2.785714,
  0.357143,
  3.296703,
  4.285714,
  -0.928571,
  1.428571,
  0.357143,
];

function close(found: Float32Array, expected: readonly number[]): void {
  assertEquals(found.length, expected.length);
  expected.forEach((e, i) =>
    e === -Infinity ? assertEquals(found[i], e) : assertAlmostEquals(found[i], e, 2e-6)
  );
}

/** The expected scores with all but these ids left out. */
function only(scores: readonly number[], ids: readonly number[]): number[] {
  return scores.map((s, i) => ids.includes(i) ? s : -Infinity);
}

Deno.test("the repetition penalty divides positive and multiplies negative scores, and comes before the temperature", () => {
  const before = LOGITS.slice();
  close(processLogits(LOGITS, { repetitionPenalty: 1.3, occurred: OCCURRED }), PENALIZED);
  close(
    processLogits(LOGITS, { repetitionPenalty: 1.3, temperature: 0.7, occurred: OCCURRED }),
    TEMPERED,
  );
  assertEquals(LOGITS, before);
});

Deno.test("top-k keeps what transformers keeps, ties with the lowest included", () => {
  const both = { repetitionPenalty: 1.3, temperature: 0.7, occurred: OCCURRED };
  const cases: readonly (readonly [number, readonly number[]])[] = [
    [1, [4]],
    [2, [3, 4]],
    [3, [0, 3, 4]],
    [5, [0, 2, 3, 4, 6, 7]],
    [8, [0, 1, 2, 3, 4, 5, 6, 7]],
    [99, [0, 1, 2, 3, 4, 5, 6, 7]],
  ];
  for (const [topK, kept] of cases) {
    close(processLogits(LOGITS, { ...both, topK }), only(TEMPERED, kept));
  }
  close(processLogits(LOGITS, { topK: 1 }), only([...LOGITS], [3, 4]));
});

Deno.test("top-p keeps what transformers keeps, at least one token", () => {
  const both = { repetitionPenalty: 1.3, temperature: 0.7, occurred: OCCURRED };
  const cases: readonly (readonly [number, readonly number[]])[] = [
    [0, [4]],
    [0.3, [4]],
    [0.6, [3, 4]],
    [0.8, [3, 4]],
    [0.95, [0, 3, 4, 6]],
    [0.99, [0, 2, 3, 4, 6, 7]],
    [1, [0, 1, 2, 3, 4, 5, 6, 7]],
  ];
  for (const [topP, kept] of cases) {
    close(processLogits(LOGITS, { ...both, topP }), only(TEMPERED, kept));
  }
  close(processLogits(LOGITS, { ...both, topK: 4, topP: 0.8 }), only(TEMPERED, [3, 4]));
});

Deno.test("top-p looks at what top-k has left, not at all scores", () => {
  const flat = Float32Array.from({ length: 100 }, (_, i) => -i / 1000);
  // Of ten nearly equal scores half the mass is five; of a hundred it would be fifty.
  const kept = processLogits(flat, { topK: 10, topP: 0.45 }).filter((s) => s > -Infinity);
  assertEquals(kept.length, 5);
});

Deno.test("tokens are drawn in proportion to the softmax, and none that was left out", () => {
  const scores = processLogits(LOGITS, { temperature: 1.5, topK: 5 });
  const weights = [...scores].map((s) => Math.exp(s));
  const total = weights.reduce((a, b) => a + b);
  const n = 20000;
  const counts = new Array<number>(scores.length).fill(0);
  for (let i = 0; i < n; i++) counts[drawToken(scores, (i + 0.5) / n)]++;
  counts.forEach((count, i) => assertAlmostEquals(count / n, weights[i] / total, 1 / n + 1e-6));
  assertEquals(counts[1] + counts[5], 0);
  assertEquals(drawToken(scores, 0), 0);
  assertEquals(drawToken(scores, 1 - 2 ** -32), 7);
});

Deno.test("argmax takes the first of equal scores and refuses what is not finite", () => {
  assertEquals(argmax(LOGITS), 3);
  assertEquals(argmax([NaN, -5, -2]), 2);
  for (const bad of [[NaN, NaN], [-Infinity], [1, Infinity]]) {
    const error = assertThrows(() => argmax(bad), ValueError);
    assertEquals(error.code, "LOGITS_NOT_FINITE");
  }
});

Deno.test("options out of range are refused by name", () => {
  const check = (options: SamplingOptions) =>
    checkOptions(options, SAMPLING_RULES, { code: "SAMPLING_OPTION", of: "Sampling" });
  for (
    const bad of [
      { temperature: 0 },
      { temperature: NaN },
      { topK: -1 },
      { topK: 1.5 },
      { topP: 1.01 },
      { topP: -0.1 },
      { repetitionPenalty: 0 },
    ]
  ) {
    const error = assertThrows(() => check(bad), ValueError, Object.keys(bad)[0]);
    assertEquals(error.code, "SAMPLING_OPTION");
  }
  check({ temperature: 0.1, topK: 0, topP: 0, repetitionPenalty: 2 });
});
