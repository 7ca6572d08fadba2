import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { type AdapterLoadReport, loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { hotswapAdapter } from "../../lib/adapters/combine/hotswap.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { architectureOf } from "../../lib/architectures/mod.ts";
import { openDevice } from "../../lib/device/open.ts";
import { CheckpointError, UnsupportedError, ValueError } from "../../lib/errors.ts";
import { createModel, loadModel } from "../../lib/io/load-model.ts";
import { resizeTokenEmbeddings } from "../../lib/io/resize-token-embeddings.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { oftConfig } from "../../lib/methods/oft.ts";
import type { Device } from "../../lib/device/device.ts";
import { createModelGraph, type ModelGraph, structureOf } from "../../lib/model/model-graph.ts";
import { taskOf } from "../../lib/model/task-of.ts";
import { castTensor, toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { noDevice } from "../adapters/bases.ts";
import { inFolder } from "./folder.ts";
import golden from "./resize-token-embeddings.golden.json" with { type: "json" };

/** The values of a parameter, as the script that wrote the golden file computes them. */
function fill(name: string, shape: readonly number[]): Tensor {
  const seed = [...name].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
  const size = shape.reduce((n, d) => n * d, 1);
  const values = Float32Array.from({ length: size }, (_, i) => 0.6 * Math.sin(1.3 * i + seed));
  return tensor(values, { shape });
}

function modelOf(config: Record<string, unknown>, device: Device): ModelGraph {
  const architecture = architectureOf(config);
  const kind = { architecture, config, taskType: taskOf(architecture, config) };
  const { shapes, tied } = structureOf(kind);
  const parameters = new Map(
    [...shapes].filter(([name]) => !tied.has(name)).map(([name, shape]) => [
      name,
      fill(name, shape),
    ]),
  );
  return createModelGraph(architecture, { ...kind, parameters, device });
}

const LLAMA = {
  model_type: "llama",
  vocab_size: 11,
  hidden_size: 6,
  intermediate_size: 5,
  num_hidden_layers: 1,
  num_attention_heads: 1,
};

async function assertLogits(
  model: AnyModel,
  inputs: { readonly input_ids: number[][]; readonly decoder_input_ids?: number[][] },
  { logits, within }: { readonly logits: readonly number[]; readonly within: number },
): Promise<void> {
  const { input_ids: inputIds, decoder_input_ids: decoderInputIds } = inputs;
  const outputs = await forward(model, { inputIds, ...(decoderInputIds && { decoderInputIds }) });
  const found = await outputs.logits.data() as Float32Array;
  assertEquals(found.length, logits.length);
  found.forEach((x, i) => assert(Math.abs(x - logits[i]) < within, `${i}: ${x} ${logits[i]}`));
}

for (const { name, config, size, multiple, vocabulary, shapes, inputs, logits } of golden.models) {
  Deno.test(`a model is resized as by transformers: ${name}`, async () => {
    using device = await openDevice("cpu");
    const model = modelOf(config, device), before = new Map(model.parameters);
    const resized = resizeTokenEmbeddings(model, size, { padToMultipleOf: multiple });
    assertEquals(resized.config.vocab_size, vocabulary);
    assertEquals(
      [...resized.parameters.values()].map(({ shape }) => [...shape])
        .filter((shape) => shape.includes(vocabulary)).sort(),
      shapes,
    );
    // transformers adds noise of 3e-5 of the rows' deviation.
    await assertLogits(resized, inputs, { logits, within: 1e-4 });
    assertEquals([model.config.vocab_size, model.parameters], [11, before]);
    await inFolder(async (folder) => {
      await saveModel(resized, folder);
      await assertLogits(await loadModel(folder, { device }), inputs, { logits, within: 1e-4 });
    });
  });
}

for (const { name, tied, config, tensors, inputs, logits } of golden.adapters) {
  Deno.test(`an adapter with more tokens resizes its base: ${name}`, async () => {
    using device = await openDevice("cpu");
    const base = modelOf({ ...LLAMA, tie_word_embeddings: tied }, device);
    const stored = new Map(
      Object.entries(tensors).map(([key, [name, shape]]) => [
        key,
        fill(name as string, shape as number[]),
      ]),
    );
    let report: AdapterLoadReport | undefined;
    const onReport = (given: AdapterLoadReport) => report = given;
    const model = await loadAdapter(base, { config, tensors: stored }, { onReport });
    assertEquals(report!.vocabulary, { base: 11, adapter: 14 });
    await assertLogits(model, inputs, { logits, within: 2e-5 });
    await assertLogits(mergeAndUnload(model), inputs, { logits, within: 2e-5 });
    // Onto a base that was resized before, it is the same.
    const larger = resizeTokenEmbeddings(base, 14);
    const again = await loadAdapter(larger, { config, tensors: stored }, { onReport });
    assertEquals(report!.vocabulary, { base: 14, adapter: 14 });
    await assertLogits(again, inputs, { logits, within: 2e-5 });
    // What changes the base is no other adapter on it.
    const resident = getPeftModel(base, loraConfig());
    const swap = () => hotswapAdapter(resident, { config, tensors: stored });
    await assertRejects(swap, UnsupportedError, "resizeTokenEmbeddings");
    // Where it does not fit, the error says what does.
    const smaller = resizeTokenEmbeddings(base, 20);
    for (const other of [smaller, resident]) {
      const options = { adapterName: "other" };
      const load = () => loadAdapter(other, { config, tensors: stored }, options);
      await assertRejects(load, CheckpointError, "resizeTokenEmbeddings(base, 14)");
    }
  });
}

Deno.test("what is saved of a resized base is loaded onto the one that was not", () =>
  inFolder(async (folder) => {
    const base = modelOf(LLAMA, noDevice), larger = resizeTokenEmbeddings(base, 14);
    const config = loraConfig({ modulesToSave: ["embed_tokens", "lm_head"] });
    await savePretrained(getPeftModel(larger, config), folder);
    let report: AdapterLoadReport | undefined;
    const model = await loadAdapter(base, folder, { onReport: (given) => report = given });
    assertEquals([report!.base, model.base.config.vocab_size], ["same", 14]);
    const rows = resizeTokenEmbeddings(base, 14, { meanResizing: false });
    await savePretrained(getPeftModel(rows, config), join(folder, "random"));
    await loadAdapter(base, join(folder, "random"), { onReport: (given) => report = given });
    assertEquals(report!.base, "unknown");
  }));

Deno.test("leaves of other methods at a head are no vocabularies", () =>
  inFolder(async (folder) => {
    const base = modelOf(LLAMA, noDevice);
    for (
      const config of [
        oftConfig({ oftBlockSize: 2, targetModules: ["lm_head"] }),
        loraConfig({ targetModules: ["embed_tokens", "lm_head"], useDora: true, r: 2 }),
      ]
    ) {
      await savePretrained(getPeftModel(base, config), folder);
      const { base: { config: { vocab_size: tokens } } } = await loadAdapter(base, folder);
      assertEquals(tokens, 11);
    }
  }));

Deno.test("rows keep their bits and their type; new ones are as asked for", async () => {
  for (const dtype of ["f32", "f16", "bf16", "f64"] as const) {
    const model = modelOf(LLAMA, noDevice), name = "lm_head.weight";
    const head = castTensor(model.parameters.get(name)!, dtype);
    const typed = { ...model, parameters: new Map([...model.parameters, [name, head]]) };
    const old = await head.data();
    for (const size of [8, 11, 15]) {
      const found = resizeTokenEmbeddings(typed, size).parameters.get(name)!;
      const kept = Math.min(size, 11) * 6, data = await found.data();
      assertEquals([found.dtype, found.shape], [dtype, [size, 6]]);
      assertEquals(data.slice(0, kept), old.slice(0, kept));
    }
    const options = { meanResizing: false, seed: 3 };
    const random = resizeTokenEmbeddings(typed, 1000, options).parameters.get(name)!;
    const rows = (await toFloat32(random)).subarray(66);
    const deviation = Math.sqrt(rows.reduce((sum, x) => sum + x * x, 0) / rows.length);
    assert(Math.abs(deviation - 0.02) < 1e-3, `${deviation}`);
    const again = resizeTokenEmbeddings(typed, 1000, options).parameters.get(name)!;
    assertEquals(await again.data(), await random.data());
  }
  // Blocks stay blocks where rows go, and become f32 where rows come.
  const model = modelOf({ ...LLAMA, hidden_size: 32, vocab_size: 3 }, noDevice);
  const name = "model.embed_tokens.weight";
  const bytes = Uint8Array.from({ length: 3 * 34 }, (_, i) => i % 34 === 0 ? 0 : 60 + i % 7);
  const blocks = tensor(bytes, { shape: [3, 32], dtype: "q8_0" });
  const quantized = { ...model, parameters: new Map([...model.parameters, [name, blocks]]) };
  const less = resizeTokenEmbeddings(quantized, 2).parameters.get(name)!;
  assertEquals([less.dtype, await less.data()], ["q8_0", bytes.slice(0, 68)]);
  const more = resizeTokenEmbeddings(quantized, 4).parameters.get(name)!;
  assertEquals(more.dtype, "f32");
  assertEquals((await toFloat32(more)).slice(0, 96), await toFloat32(blocks));
});

Deno.test("what cannot be resized is refused", async () => {
  const model = await createModel(LLAMA, { device: "cpu" });
  using _device = model.device;
  assertEquals(resizeTokenEmbeddings(model, 11).parameters, model.parameters);
  for (const size of [0, -1, 2.5, NaN, Infinity, "12", undefined]) {
    assertThrows(
      () => resizeTokenEmbeddings(model, size as number),
      ValueError,
      "number of tokens",
    );
  }
  const peft = getPeftModel(model, loraConfig()) as unknown as ModelGraph;
  assertThrows(() => resizeTokenEmbeddings(peft, 12), ValueError, "without adapters");
  const options = { padToMultipleOf: 0 };
  assertThrows(() => resizeTokenEmbeddings(model, 12, options), ValueError, "padToMultipleOf");
});
