import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { forward, type ForwardOutputs } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { GraftError } from "../../lib/errors.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { polyConfig } from "../../lib/methods/poly.ts";
import type { TaskType } from "../../lib/model/task-type.ts";
import { nextToken } from "../../lib/tasks/causal-lm.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import type { TrainingBatch } from "../../lib/training/batch.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { testOnDevices } from "../devices.ts";

const BERT = {
  model_type: "bert",
  vocab_size: 29,
  hidden_size: 16,
  intermediate_size: 20,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 16,
  initializer_range: 0.3,
  id2label: { 0: "a", 1: "b", 2: "c" },
  architectures: ["BertModel"],
};

const REGRESSION = { ...BERT, id2label: { 0: "a" } };

const T5 = {
  model_type: "t5",
  vocab_size: 29,
  d_model: 16,
  d_kv: 8,
  d_ff: 20,
  num_layers: 1,
  num_heads: 2,
  decoder_start_token_id: 0,
  pad_token_id: 0,
  architectures: ["T5ForConditionalGeneration"],
};

const LLAMA = {
  model_type: "llama",
  vocab_size: 29,
  hidden_size: 16,
  intermediate_size: 20,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  initializer_range: 0.3,
  pad_token_id: 0,
};

const inputIds = [[5, 6, 7, 8], [9, 10, 11, 0]];
const attentionMask = [[1, 1, 1, 1], [1, 1, 1, 0]];
const common = { inputIds, attentionMask };

const CASES: readonly (readonly [
  string,
  { readonly model_type: string },
  TaskType,
  TrainingBatch,
  keyof ForwardOutputs,
])[] = [
  [
    "classes of texts",
    BERT,
    "SEQ_CLS",
    { ...common, tokenTypeIds: [[0, 0, 1, 1], [0, 1, 1, 0]], labels: [2, 0] },
    "logits",
  ],
  ["labels of texts", BERT, "SEQ_CLS", { ...common, labels: [[1, 0, 1], [0, 0, 1]] }, "logits"],
  ["numbers", REGRESSION, "SEQ_CLS", {
    ...common,
    labels: [0.5, -2],
  }, "logits"],
  ["classes of texts by llama", LLAMA, "SEQ_CLS", { ...common, labels: [1, 0] }, "logits"],
  [
    "classes of tokens",
    BERT,
    "TOKEN_CLS",
    { ...common, labels: [[0, 1, 2, 0], [2, -100, 0, -100]] },
    "logits",
  ],
  [
    "answers",
    BERT,
    "QUESTION_ANS",
    { ...common, startPositions: [1, 0], endPositions: [3, 9] },
    "startLogits",
  ],
  [
    "another text",
    T5,
    "SEQ_2_SEQ_LM",
    { ...common, labels: [[3, 4, 1], [12, 1, -100]] },
    "encoderLastHiddenState",
  ],
];

for (const [what, config, taskType, batch, output] of CASES) {
  testOnDevices(`${what} (${taskType}): forward, evaluate and train agree`, async (device) => {
    const base = await createModel(config, {
      device,
      seed: 4,
      taskType,
    });
    const model = getPeftModel(
      base,
      loraConfig({ r: 4, taskType, targetModules: "all-linear", initLoraWeights: false }),
    );
    const outputs = await forward(model, batch);
    assert(output in outputs, Object.keys(outputs).join());
    const { labels: _, startPositions: _s, endPositions: _e, ...inputs } = batch;
    const { loss, metrics } = await evaluate(model, [batch]);
    assertAlmostEquals(outputs.loss!, loss, 1e-5 * loss);
    if ("accuracy" in metrics) assert(metrics.accuracy >= 0 && metrics.accuracy <= 1);
    const { loss: again, gradients } = await computeGradients(model, batch);
    assertAlmostEquals(again, loss, 1e-5 * loss);
    assert(gradients.size > 0);
    const { model: trained } = await train(model, [batch], { learningRate: 3e-2, steps: 8 });
    const after = await evaluate(trained, [batch]);
    assert(after.loss < loss - 0.05, `${after.loss} after ${loss}`);
    const missing = await assertRejects(() => evaluate(model, [inputs]), GraftError);
    assertEquals(missing.code, "LABELS_MISSING");
    if (taskType !== "SEQ_2_SEQ_LM") {
      assertEquals("loss" in await forward(model, inputs), false);
    } else {
      const error = await assertRejects(() => forward(model, inputs), GraftError);
      assertEquals(error.code, "BATCH_MISSING", error.message);
      const written = await forward(model, {
        ...inputs,
        decoderInputIds: [[0, 3, 4], [0, 12, 1]],
      });
      assertEquals(await written.logits.data(), await outputs.logits.data());
    }
  });
}

testOnDevices("a model without a head gives features, and needs an objective", async (device) => {
  const model = await createModel(BERT, { device, seed: 4, taskType: "FEATURE_EXTRACTION" });
  const { lastHiddenState, poolerOutput, loss } = await forward(model, common);
  assertEquals([lastHiddenState.shape, poolerOutput!.shape, loss], [
    [2, 4, 16],
    [2, 16],
    undefined,
  ]);
  const error = await assertRejects(() => evaluate(model, [common]), GraftError);
  assertEquals(error.code, "OBJECTIVE");
  const unfit = await assertRejects(
    () => evaluate(model, [common], { objective: nextToken }),
    GraftError,
    "logits",
  );
  assertEquals(unfit.code, "OBJECTIVE");
});

testOnDevices("noise is of another pass than none", async (device) => {
  const base = await createModel(LLAMA, { device, seed: 4 });
  const config = polyConfig({
    nTasks: 2,
    nSkills: 2,
    initWeights: false,
    targetModules: ["q_proj"],
  });
  const model = getPeftModel(base, config);
  const inputs = { inputIds: [[5, 6, 7]], taskIds: [1] };
  const before = await (await forward(model, inputs)).logits.data();
  const error = await assertRejects(() => forward(model, { ...inputs, noise: {} }), GraftError);
  assertEquals(error.code, "NOISE");
  const name = "model.layers.0.self_attn.q_proj";
  const noise = { [name]: tensor(Float32Array.of(0.9, 0.2), { shape: [1, 1, 2] }) };
  const drawn = await (await forward(model, { ...inputs, noise })).logits.data();
  assert(drawn.some((x, i) => x !== before[i]));
  assertEquals(await (await forward(model, inputs)).logits.data(), before);
});
