import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { evaluate } from "../../lib/training/evaluate.ts";
import { train } from "../../lib/training/train.ts";
import { readPart } from "../../lib/adapters/token-batch.ts";
import { architectureOf } from "../../lib/architectures/mod.ts";
import { GraftError, ValueError } from "../../lib/errors.ts";
import { createModel } from "../../lib/io/load-model.ts";
import type { TaskType } from "../../lib/model/task-type.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph, type Value } from "../../lib/ops/value.ts";
import { gradients } from "../../lib/program/grad.ts";
import { programOf } from "../../lib/program/program.ts";
import { contrastive } from "../../lib/tasks/contrastive.ts";
import { TASKS } from "../../lib/tasks/mod.ts";
import { shiftRight } from "../../lib/tasks/shift-right.ts";
import type { HostBatch, HostPart, Objective } from "../../lib/tasks/objective.ts";
import { sum } from "../../lib/ops/reduce.ts";
import { mul } from "../../lib/ops/elementwise.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";
import { apart } from "../steps.ts";
import golden from "./objectives.golden.json" with { type: "json" };

interface Output {
  readonly shape: readonly number[];
  readonly values: readonly number[];
  readonly gradient: readonly number[];
}

const CASES = golden.cases.map((one) => ({
  ...one,
  outputs: one.outputs as unknown as Readonly<Record<string, Output>>,
}));

/** A batch on the host that holds nothing but what an objective takes. */
async function hostBatch(
  objective: Objective,
  of: { readonly batch: Readonly<Record<string, unknown>>; readonly config: object },
  size: Partial<HostBatch> = {},
): Promise<HostBatch> {
  const config = { ...of.config }, parts: Record<string, HostPart> = {};
  for (const spec of objective.inputs(config, of.batch)) {
    if (of.batch[spec.name] !== undefined) {
      parts[spec.name] = await readPart(of.batch[spec.name], spec);
    }
  }
  const [rows, length] = [2, 4];
  return {
    rows,
    length,
    virtual: 0,
    ids: new Int32Array(rows * length).fill(1),
    segments: new Int32Array(rows * length).fill(1),
    packed: false,
    parts,
    learns: true,
    config,
    ...size,
  };
}

for (const { name, task, loss, ...rest } of CASES) {
  testOnDevices(`the loss of ${name} is that of transformers (${task})`, async (device) => {
    const objective = TASKS[task as TaskType].objective!;
    const batch = await hostBatch(objective, rest);
    const { labels, count } = objective.prepare(batch);
    const graph = createGraph();
    const outputs: Record<string, Value> = {}, inputs: Record<string, Tensor> = { ...labels };
    for (
      const [name, { shape, values }] of Object.entries(rest.outputs)
    ) {
      outputs[name] = input(graph, name, { shape, dtype: "f32" });
      inputs[name] = tensor(Float32Array.from(values), { shape });
    }
    const given = Object.fromEntries(
      Object.entries(labels!).map(([name, { shape, dtype }]) => [
        name,
        input(graph, name, { shape, dtype: dtype as "i32" }),
      ]),
    );
    const total = objective.loss(outputs, given);
    const names = Object.keys(outputs);
    const found = gradients(total, Object.values(outputs));
    const program = programOf({
      total,
      ...Object.fromEntries(names.map((name, i) => [`grad.${name}`, found[i]])),
    });
    const executable = await device.compile(program);
    const results = await executable.run(inputs);
    assertAlmostEquals((await results.total.data())[0] as number / count, loss, 1e-5 * loss);
    for (const [name, { gradient }] of Object.entries(rest.outputs)) {
      const own = await results[`grad.${name}`].data() as Float32Array;
      const off = apart(own.map((x) => x / count), gradient);
      assert(off < 2e-5, `the gradient of ${name} is off by ${off}`);
    }
    if ("decoderInputIds" in rest) {
      const architecture = architectureOf({ model_type: "t5" }), { config } = batch;
      const { data } = shiftRight(batch.parts.labels, { architecture, config });
      assertEquals([...data], rest.decoderInputIds!.flat());
    }
  });
}

Deno.test("what mBART and PLBART write begins with what it ends with", () => {
  const shifted = (model_type: string, rows: readonly number[][]) => {
    const part = { data: Int32Array.from(rows.flat()), shape: [rows.length, rows[0].length] };
    const config = { pad_token_id: 0 };
    return [...shiftRight(part, { architecture: architectureOf({ model_type }), config }).data];
  };
  // As by `shift_tokens_right` of transformers, which counts from the left.
  const labels = [[5, 2, 1, -100], [3, 7, -100, -100], [4, 8, 9, 6]];
  for (const family of ["mbart", "plbart"]) {
    assertEquals(shifted(family, labels), [1, 5, 2, 1, 7, 3, 7, 0, 6, 4, 8, 9]);
    assertEquals(shifted(family, [[0, 0, 6, 8]]), [0, 0, 0, 6]);
  }
  assertEquals(shifted("bart", [[5, 2, 1, -100]]), [0, 5, 2, 1]);
});

Deno.test("labels move behind virtual tokens, and stay within samples", async () => {
  const { objective } = TASKS.CAUSAL_LM;
  const labelsOf = async (size: Partial<HostBatch>, batch = {}) => {
    const { labels, count } = objective!.prepare(
      await hostBatch(objective!, { batch, config: {} }, { rows: 1, length: 3, ...size }),
    );
    return [[...await labels!.labels.data()], count];
  };
  const ids = Int32Array.of(7, 8, 9);
  assertEquals(await labelsOf({ ids }), [[8, 9, -100], 2]);
  assertEquals(await labelsOf({ ids, virtual: 2 }), [[-100, 7, 8, 9, -100], 3]);
  const padded = Int32Array.of(1, 1, 0);
  assertEquals(await labelsOf({ ids, segments: padded }), [[8, -100, -100], 1]);
  assertEquals(await labelsOf({ ids, segments: padded }, { labels: [[4, 5, 6]] }), [
    [5, 6, -100],
    2,
  ]);
  const two = Int32Array.of(1, 2, 2);
  assertEquals(await labelsOf({ ids, segments: two, packed: true }), [[-100, 9, -100], 1]);

  const { objective: classes } = TASKS.TOKEN_CLS;
  const batch = { labels: [[1, -100, 0]] };
  const { labels } = classes!.prepare(
    await hostBatch(classes!, { batch, config: {} }, { rows: 1, length: 3, virtual: 1 }),
  );
  assertEquals([...await labels!.labels.data()], [-100, 1, -100, 0]);
});

Deno.test("labels that a task needs, and of its classes", async () => {
  for (const task of ["SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "QUESTION_ANS"] as const) {
    const { objective } = TASKS[task];
    const batch = await hostBatch(objective!, { batch: {}, config: {} });
    const error = assertThrows(() => objective!.prepare(batch), ValueError);
    assertEquals(error.code, "LABELS_MISSING", task);
    assertEquals(objective!.prepare({ ...batch, learns: false }), { count: 0 });
  }
  const { objective } = TASKS.SEQ_CLS;
  for (
    const [code, labels, config] of [
      ["BATCH_VALUE", [3, 0], { num_labels: 3 }],
      ["BATCH_VALUE", [1.5, 0], { num_labels: 3 }],
      ["BATCH_VALUE", [NaN], { num_labels: 1 }],
      ["BATCH_SHAPE", [[1, 0]], { num_labels: 3 }],
      ["BATCH_SHAPE", 1, { num_labels: 3 }],
      ["BATCH_SHAPE", [[1, 0]], { num_labels: 2, problem_type: "single_label_classification" }],
    ] as const
  ) {
    const error = await assertRejects(
      () => hostBatch(objective!, { batch: { labels }, config }),
      GraftError,
    );
    assertEquals(error.code, code, error.message);
  }
});

Deno.test("metrics look at all batches, at labels that count, and at each row by itself", () => {
  const part = (data: readonly number[], shape: readonly number[]) => ({
    data: Float32Array.from(data),
    shape,
  });
  const whole = (data: readonly number[], shape: readonly number[]) => ({
    data: Int32Array.from(data),
    shape,
  });
  // Scores of the classes that are given, one row each.
  const choose = (classes: readonly number[], shape: readonly number[], count: number) =>
    part(classes.flatMap((own) => Array.from({ length: count }, (_, k) => k === own ? 1 : 0)), [
      ...shape,
      count,
    ]);
  const tagged = TASKS.TOKEN_CLS.objective!.metrics!([
    {
      outputs: { logits: choose([1, 2, 0, 2], [2, 2], 3) },
      labels: { labels: whole([1, 2, -100, 2], [2, 2]) },
      virtual: 0,
    },
    {
      outputs: { logits: choose([2], [1, 1], 3) },
      labels: { labels: whole([0], [1, 1]) },
      virtual: 0,
    },
  ], { id2label: { 0: "O", 1: "B-X", 2: "I-X" } });
  // The last entity of a row does not go on in the next: two are right, one is found beside them.
  assertEquals(tagged, { accuracy: 0.75, precision: 2 / 3, recall: 1, f1: 0.8 });
  const plain = TASKS.TOKEN_CLS.objective!.metrics!([
    {
      outputs: { logits: choose([1, 0], [1, 2], 2) },
      labels: { labels: whole([1, -100], [1, 2]) },
      virtual: 0,
    },
  ], { id2label: { 0: "NOUN", 1: "VERB" } });
  assertEquals(plain, { accuracy: 1, f1Macro: 1 });
  const { metrics } = TASKS.SEQ_CLS.objective!;
  const several = metrics!([{
    outputs: { logits: part([2, -1, 0.5, 3], [2, 2]) },
    labels: { labels: part([1, 0, 0, 1], [2, 2]) },
    virtual: 0,
  }], { num_labels: 2 });
  assertEquals([several.accuracy, several.f1Micro], [0.5, 0.8]);
  const numbers = metrics!(
    [1, 3].map((x) => ({
      outputs: { logits: part([x], [1, 1]) },
      labels: { values: part([x + 1], [1]) },
      virtual: 0,
    })),
    { num_labels: 1 },
  );
  assertEquals(numbers, { mse: 1, mae: 1, pearson: 1, spearman: 1 });
  const found = TASKS.QUESTION_ANS.objective!.metrics!([{
    outputs: { startLogits: choose([1, 0], [2], 3), endLogits: choose([2, 0], [2], 3) },
    labels: { startPositions: whole([1, -100], [2]), endPositions: whole([1, -100], [2]) },
    virtual: 0,
  }], {});
  assertEquals(found, { accuracy: 0.5 });
  const ranked = contrastive().metrics!([
    { outputs: { scores: part([3, 1, 2, 1], [2, 2]) }, labels: {}, virtual: 0 },
    { outputs: { scores: part([1, 4, 5], [1, 3]) }, labels: {}, virtual: 0 },
  ], {});
  assertAlmostEquals(ranked.accuracy, 1 / 3, 1e-12);
  assertAlmostEquals(ranked.mrr, (1 + 1 / 2 + 1 / 3) / 3, 1e-12);
});

testOnDevices("a model is trained for an objective of one's own", async (device) => {
  const model = await createModel({
    model_type: "llama",
    vocab_size: 11,
    hidden_size: 8,
    intermediate_size: 12,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  }, { device, seed: 1 });
  // Squares of the first score of each row against a number that batches bring.
  const objective: Objective = {
    name: "size",
    outputs: ["logits"],
    inputs: () => [{ name: "sizes", axes: ["batch"], dtype: "f32", doc: "How much [B]." }],
    prepare: ({ parts: { sizes }, rows }) => ({
      labels: { sizes: tensor(sizes.data, { shape: sizes.shape }) },
      count: rows,
    }),
    loss({ logits }, { sizes }) {
      const per = sum(mul(logits, logits), { axes: [1, 2] });
      return sum(mul(per, sizes));
    },
    metrics: (batches) => ({
      square: batches.flatMap(({ outputs }) => [...outputs.logits.data])
        .reduce((sum, x) => sum + x * x / 2, 0),
    }),
  };
  const batch = { inputIds: [[1, 2, 3], [4, 5, 6]], sizes: [1, 3] };
  const before = await evaluate(model, [batch], { objective });
  assert(before.metrics.square > 0 && before.loss > before.metrics.square);
  const { model: trained, history } = await train(model, [batch], {
    objective,
    learningRate: 1e-2,
    steps: 5,
  });
  assertAlmostEquals(history[0].loss, before.loss, 1e-5 * before.loss);
  assert((await evaluate(trained, [batch], { objective })).loss < 0.8 * before.loss);
  const error = await assertRejects(
    () => evaluate(model, [{ ...batch, labels: [[1, 2, 3], [4, 5, 6]] }], { objective }),
    ValueError,
  );
  assertEquals(error.code, "BATCH_PART");
});
