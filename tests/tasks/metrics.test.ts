import { assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { ShapeError } from "../../lib/errors.ts";
import { answerScores } from "../../lib/tasks/metrics/answer-scores.ts";
import { classScores, labelSetScores } from "../../lib/tasks/metrics/class-scores.ts";
import { areEntityTags, entityScores } from "../../lib/tasks/metrics/entity-scores.ts";
import { numberScores } from "../../lib/tasks/metrics/number-scores.ts";
import { bleuScore, rougeScores } from "../../lib/tasks/metrics/text-scores.ts";
import golden from "./metrics.golden.json" with { type: "json" };

function same(found: object, expected: object): void {
  assertEquals(Object.keys(found).sort(), Object.keys(expected).sort());
  for (const [name, value] of Object.entries(expected)) {
    assertAlmostEquals((found as Record<string, number>)[name], value, 1e-9, name);
  }
}

Deno.test("scores of classes, label sets and numbers are those of scikit-learn and SciPy", () => {
  for (const { classes, predicted, expected, scores } of golden.classes) {
    same(classScores(predicted, expected, { classes }), scores);
  }
  for (const { predicted, expected, scores } of golden.sets) {
    same(labelSetScores(predicted, expected), scores);
  }
  for (const { predicted, expected, scores } of golden.numbers) {
    same(numberScores(predicted, expected), scores);
  }
  same(numberScores([1, 1], [2, 3]), { mse: 2.5, mae: 1.5, pearson: 0, spearman: 0 });
});

Deno.test("scores of entities are those of seqeval, in each scheme", () => {
  for (const { predicted, expected, scores } of golden.tags) {
    same(entityScores(predicted, expected), scores);
  }
  assertEquals(["B-PER", "I", "NOUN", "X-PER"].map((tag) => areEntityTags(["O", tag])), [
    true,
    true,
    false,
    false,
  ]);
});

Deno.test("scores of answers are those of transformers, with and without unanswerable ones", () => {
  for (const { pairs, scores } of golden.answers) {
    same(
      answerScores(
        pairs.map(([predicted]) => predicted as string),
        pairs.map(([, answers]) => answers as string[]),
      ),
      scores,
    );
  }
});

Deno.test("scores of texts are those of rouge_score and sacrebleu", async () => {
  const columns = (pairs: readonly (readonly string[])[]) =>
    [0, 1].map((at) => pairs.map((pair) => pair[at])) as [string[], string[]];
  for (const { pairs, scores } of golden.rouge) same(await rougeScores(...columns(pairs)), scores);
  for (const { pairs, score } of golden.bleu) {
    assertAlmostEquals(bleuScore(...columns(pairs)), score, 1e-9, pairs[0].join(" | "));
  }
});

Deno.test("there are as many predictions as right answers", async () => {
  for (
    const score of [
      () => classScores([1], [1, 0], { classes: 2 }),
      () => labelSetScores([], [[1]]),
      () => numberScores([1], []),
      () => entityScores([["O"]], []),
      () => answerScores(["a"], []),
      () => bleuScore(["a"], []),
    ]
  ) assertEquals(assertThrows(score, ShapeError).code, "METRIC_SHAPE");
  await assertRejects(() => rougeScores(["a"], []), ShapeError);
});
