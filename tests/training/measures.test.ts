import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { ValueError } from "../../lib/errors.ts";
import { createModel } from "../../lib/io/load-model.ts";
import type { EvaluatedBatch } from "../../lib/tasks/objective.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import { measureAnswers, measureTexts } from "../../lib/training/measures.ts";
import type { HistoryEntry } from "../../lib/training/report.ts";
import type { TokenizedExample } from "../../lib/training/row-rule.ts";
import { trainSeeds } from "../../lib/training/seeds.ts";
import { train, type TrainResult } from "../../lib/training/train.ts";

const CONTEXT = "one two three";
const OFFSETS = [null, [0, 3], [4, 7], [8, 13]] as const;

/** A window on the context, of a question with these answers. */
function windowOf(row: number, answers: readonly string[]): TokenizedExample {
  return {
    ids: [9, 1, 2, 3],
    labels: [0, 0],
    labelsOf: "span",
    window: { row, context: CONTEXT, offsets: OFFSETS, none: 0, answers },
  };
}

/** A batch with these scores, behind one virtual token that would be the best of all. */
function scored(
  rows: readonly (readonly [readonly number[], readonly number[]])[],
): EvaluatedBatch {
  const part = (of: 0 | 1) => ({
    data: Float32Array.from(rows.flatMap((row) => [99, ...row[of]])),
    shape: [rows.length, 5],
  });
  return { outputs: { startLogits: part(0), endLogits: part(1) }, labels: {}, virtual: 1 };
}

Deno.test("the best span of all windows is the answer, unless none scores higher", () => {
  const [two, tail] = [[[0, 0, 3, 0], [0, 0, 2, 1]], [[0, -9, 1, 4], [0, 5, 0, 3]]] as const;
  const measured = (
    answers: readonly (readonly [number, readonly string[]])[],
    ...batches: readonly EvaluatedBatch[]
  ) =>
    measureAnswers(answers.map(([row, right]) => windowOf(row, right)))
      .measure(batches, () => Promise.reject());
  // An end before its start is none; windows of a question compete, over batches too.
  assertEquals(measured([[0, ["three"]]], scored([tail])), { exactMatch: 100, f1: 100 });
  assertEquals(measured([[0, ["three"]], [0, ["three"]]], scored([tail]), scored([two])), {
    exactMatch: 100,
    f1: 100,
  });
  const nothing = [[4, 0, 3, 0], [3, 0, 2, 0]] as const;
  assertEquals(measured([[0, ["two"]]], scored([nothing])), { exactMatch: 100, f1: 100 });
  assertEquals(measured([[0, ["two"]], [1, []]], scored([nothing, nothing])), {
    exactMatch: 50,
    f1: 50,
    answeredExactMatch: 0,
    answeredF1: 0,
    unanswerable: 100,
  });
  // The least of the windows' scores for none counts.
  assertEquals(measured([[0, []], [0, []]], scored([nothing, two])), {
    exactMatch: 0,
    f1: 0,
    answeredExactMatch: 0,
    answeredF1: 0,
    unanswerable: 0,
  });
});

Deno.test("texts are written by the model as it is then", async () => {
  const model = await createModel({
    model_type: "t5",
    vocab_size: 11,
    d_model: 8,
    d_kv: 4,
    d_ff: 8,
    num_layers: 1,
    num_heads: 2,
    decoder_start_token_id: 0,
    pad_token_id: 0,
  }, { device: "cpu", taskType: "SEQ_2_SEQ_LM" });
  using _device = model.device;
  const examples: TokenizedExample[] = [
    { ids: [3, 4], labels: [5, 1], labelsOf: "decoder", target: "a b c d" },
  ];
  let asked: unknown;
  const metrics = measureTexts(examples, async (sources, current) => {
    asked = [sources, await current() === model];
    return ["a b c e"];
  });
  const batch = { inputIds: [[3, 4]], labels: [[5, 1]] };
  const evaluation = await evaluate(model, [batch], { metrics });
  assertEquals(asked, [[[3, 4]], true]);
  assertEquals(evaluation.metrics.rouge1, 0.75);
  assertAlmostEquals(evaluation.metrics.bleu, 100 * (0.75 * 2 / 3 * 0.5 * 0.5) ** 0.25, 1e-9);
});

/** A run that ended with these numbers. */
function ended(loss: number, metrics: Readonly<Record<string, number>>): TrainResult<never> {
  const step: HistoryEntry = { step: 1, loss: 1, learningRate: 1, gradientNorm: 1, tokens: 1 };
  const evaluation = { ...step, evalLoss: loss, evalMetrics: metrics };
  return { model: {} as never, history: [evaluation], stopped: false, evaluation };
}

Deno.test("of several seeds the best run is kept, with means and deviations", async () => {
  const runs: Readonly<Record<number, TrainResult<never>>> = {
    4: ended(0.5, { f1: 0.5, mse: 2 }),
    7: ended(0.3, { f1: 0.7, mse: 4 }),
    2: ended(0.7, { f1: 0.9, mse: 3 }),
    9: ended(0.3, { f1: 0.9, mse: 3 }),
  };
  const search = (metricForBest?: string, greaterIsBetter?: boolean) =>
    trainSeeds([4, 7, 2, 9], (seed) => Promise.resolve(runs[seed]), {
      metricForBest,
      greaterIsBetter,
    });
  const { seed, best, runs: all, summary } = await search();
  assertEquals([seed, best, all.map((run) => run.seed)], [7, runs[7], [4, 7, 2, 9]]);
  assertAlmostEquals(summary.loss.mean, 0.45, 1e-12);
  assertAlmostEquals(summary.mse.deviation, Math.sqrt(2 / 3), 1e-12);
  assertEquals((await search("f1")).seed, 2);
  assertEquals((await search("mse")).seed, 4);
  assertEquals((await search("mse", true)).seed, 7);
  await assertRejects(() => search("f2"), ValueError, "loss, f1, mse are");
  await assertRejects(
    () => trainSeeds([1, 1], () => Promise.resolve(runs[4])),
    ValueError,
    "differ",
  );
  const { evaluation: _, ...none } = runs[4];
  await assertRejects(() => trainSeeds([1], () => Promise.resolve(none)), ValueError, "evalData");
});

Deno.test("the best of a run is told by the metric that is asked for", async () => {
  const model = await createModel({
    model_type: "bert",
    vocab_size: 11,
    hidden_size: 8,
    intermediate_size: 8,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    initializer_range: 0.5,
  }, { device: "cpu", taskType: "SEQ_CLS", numLabels: 2, seed: 3 });
  using _device = model.device;
  const data = [{ inputIds: [[1, 2], [3, 4], [5, 6]], labels: [0, 1, 1] }];
  const run = (options: object) =>
    train(model, data, {
      learningRate: 3e-2,
      steps: 6,
      evalData: data,
      evalEvery: 1,
      loadBest: true,
      ...options,
    });
  const { history, best, evaluation, model: trained } = await run({ metricForBest: "accuracy" });
  const accuracies = history.map(({ evalMetrics }) => evalMetrics!.accuracy);
  assertEquals(best!.step, accuracies.indexOf(Math.max(...accuracies)) + 1);
  assertEquals(evaluation, best);
  const after = await evaluate(trained, data);
  assertAlmostEquals(after.loss, best!.evalLoss, 1e-5);
  assertEquals(after.metrics, best!.evalMetrics);
  const worst = await run({ metricForBest: "accuracy", greaterIsBetter: false });
  assertEquals(worst.best!.evalMetrics!.accuracy, Math.min(...accuracies));
  const stuck = await run({ metricForBest: "accuracy", earlyStopping: { patience: 2 }, steps: 40 });
  assert(stuck.history.length < 40);
  let steps = 0;
  const error = await assertRejects(
    () => run({ metricForBest: "acuracy", onStep: () => steps++ }),
    ValueError,
    'metricForBest is "acuracy" (nearest: accuracy',
  );
  assertEquals([error.code, steps], ["TRAIN_OPTIONS", 0]);
});
