import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { readJsonFile } from "../../lib/io/json.ts";
import { createModel, loadModel } from "../../lib/io/load-model.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { CheckpointError, UnsupportedError } from "../../lib/errors.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { type ModelGraph, withParameters } from "../../lib/model/model-graph.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { inFolder } from "./folder.ts";

const GPT2 = {
  model_type: "gpt2",
  architectures: ["GPT2LMHeadModel"],
  vocab_size: 37,
  n_embd: 24,
  n_layer: 1,
  n_head: 3,
  n_positions: 8,
};

Deno.test("a model for another task keeps the body and gets a new head", async () => {
  const model = await createModel(GPT2, { device: "cpu" });
  using device = model.device;
  await inFolder(async (folder) => {
    await saveModel(model, folder);
    assertEquals((await loadModel(folder, { device })).initialized, []);
    const classifier = await loadModel(folder, { device, taskType: "SEQ_CLS", numLabels: 3 });
    assertEquals(classifier.taskType, "SEQ_CLS");
    assertEquals(classifier.initialized, ["score.weight"]);
    assertEquals(classifier.parameters.get("score.weight")!.shape, [3, 24]);
    const head = classifier.parameters.get("score.weight")!;
    assert((await head.data() as Float32Array).every((x) => x !== 0));
    const name = "transformer.h.0.attn.c_attn.weight";
    assertEquals(
      await classifier.parameters.get(name)!.data(),
      await model.parameters.get(name)!.data(),
    );
    await saveModel(classifier, folder);
    const config = await readJsonFile(`${folder}/config.json`);
    assertEquals(config.architectures, ["GPT2ForSequenceClassification"]);
    assertEquals(config.id2label, { 0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2" });
    const again = await loadModel(folder, { device });
    assertEquals([again.taskType, again.initialized], ["SEQ_CLS", []]);
    assertEquals(
      await again.parameters.get("score.weight")!.data(),
      await head.data(),
    );
    // The head of another task is left out, and the body's names lose what a head needed.
    const body = await loadModel(folder, { device, taskType: "FEATURE_EXTRACTION" });
    assertEquals(body.initialized, []);
    assert(body.parameters.has("h.0.attn.c_attn.weight") && !body.parameters.has("score.weight"));
    await saveModel(body, folder);
    const config2 = await readJsonFile(`${folder}/config.json`);
    assertEquals(config2.architectures, ["GPT2Model"]);
    const tokens = await loadModel(folder, { device, taskType: "TOKEN_CLS" });
    assertEquals(tokens.initialized, ["classifier.weight", "classifier.bias"]);
    const text = await loadModel(folder, { device, taskType: "CAUSAL_LM" });
    assertEquals([text.initialized, [...text.tied.keys()]], [[], ["lm_head.weight"]]);
  });
});

Deno.test("a head that does not fit is an error where no task is asked for", async () => {
  const model = await createModel({ ...GPT2, tie_word_embeddings: false }, { device: "cpu" });
  using device = model.device;
  await inFolder(async (folder) => {
    const config = { ...model.config, architectures: ["GPT2ForSequenceClassification"] };
    await saveModel({ ...model, config }, folder);
    const { message } = await assertRejects(() => loadModel(folder, { device }), CheckpointError);
    assert(message.includes("missing score.weight"), message);
    assert(message.includes("unexpected lm_head.weight"), message);
    assert(message.includes("give a taskType (CAUSAL_LM, SEQ_CLS"), message);
    const asked = await loadModel(folder, { device, taskType: "SEQ_CLS" });
    assertEquals(asked.initialized, ["score.weight"]);
  });
});

Deno.test("a head for another number of classes is an error, in a checkpoint and in an adapter", async () => {
  const config = { ...GPT2, architectures: ["GPT2ForSequenceClassification"] };
  const three = await createModel({ ...config, num_labels: 3 }, { device: "cpu" });
  using device = three.device;
  await inFolder(async (folder) => {
    await saveModel(three, folder);
    const load = () => loadModel(folder, { device, numLabels: 2 });
    const { message } = await assertRejects(load, CheckpointError, "leave numLabels out");
    assert(message.includes("score.weight has shape [3,24], expected [2,24]"), message);
    const adapter = `${folder}/adapter`;
    await savePretrained(getPeftModel(three, loraConfig({ taskType: "SEQ_CLS" })), adapter);
    const two = await createModel({ ...config, num_labels: 2 }, { device });
    await assertRejects(() => loadAdapter(two, adapter), CheckpointError, "Load the base");
    const anyway = () => loadAdapter(two, adapter, { allowOtherBase: true });
    await assertRejects(anyway, CheckpointError, "score.weight");
  });
});

Deno.test("a body that does not fit is an error whatever the task", async () => {
  const model = await createModel(GPT2, { device: "cpu" });
  using device = model.device;
  await inFolder(async (folder) => {
    const parameters = new Map(model.parameters);
    parameters.set("transformer.h.0.attn.extra.weight", parameters.get("transformer.ln_f.weight")!);
    parameters.delete("transformer.ln_f.bias");
    await saveModel({ ...model, parameters }, folder);
    const load = () => loadModel(folder, { device, taskType: "SEQ_CLS" });
    const { message } = await assertRejects(load, CheckpointError);
    assert(message.includes("missing transformer.ln_f.bias"), message);
    assert(message.includes("unexpected transformer.h.0.attn.extra.weight"), message);
  });
});

Deno.test("embeddings of T5 stay apart where a change has cut their tie", async () => {
  const config = {
    model_type: "t5",
    vocab_size: 13,
    d_model: 8,
    d_kv: 3,
    d_ff: 9,
    num_layers: 1,
    num_heads: 2,
    decoder_start_token_id: 0,
  };
  const model = await createModel(config, { device: "cpu" });
  using device = model.device;
  const own = async (by: number): Promise<Tensor> => {
    const table = model.parameters.get("shared.weight")!;
    const data = await table.data() as Float32Array;
    return tensor(data.map((x, i) => x + by * Math.sin(i)), { shape: table.shape });
  };
  const scores = async (of: ModelGraph) => {
    const { logits } = await forward(of, { inputIds: [[3, 4]], decoderInputIds: [[0, 5]] });
    return await logits.data();
  };
  const changes = { "lm_head.weight": await own(0.2), "encoder.embed_tokens.weight": await own(1) };
  const cut = withParameters(model, new Map(Object.entries(changes)));
  await inFolder(async (folder) => {
    for (const before of [model, cut]) {
      await saveModel(before, folder);
      const after = await loadModel(folder, { device });
      assertEquals(after.tied, before.tied);
      assertEquals(await scores(after), await scores(before));
    }
  });
  assertNotEquals(await scores(model), await scores(cut));
});

Deno.test("tasks that a family has no models for are refused", async () => {
  const { message } = await assertRejects(
    () => createModel(GPT2, { device: "cpu", taskType: "SEQ_2_SEQ_LM" }),
    UnsupportedError,
  );
  assert(message.includes("CAUSAL_LM, SEQ_CLS"), message);
});

Deno.test("a new model for a task has the head and the labels that were asked for", async () => {
  const model = await createModel(GPT2, { device: "cpu", taskType: "TOKEN_CLS", numLabels: 5 });
  using _device = model.device;
  assertEquals(model.parameters.get("classifier.weight")!.shape, [5, 24]);
  assertEquals(model.config.architectures, ["GPT2ForTokenClassification"]);
  assertNotEquals(model.config, GPT2);
});
