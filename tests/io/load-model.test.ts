import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { join } from "node:path";
import { forward } from "../../lib/adapters/forward.ts";
import { openDevice } from "../../lib/device/open.ts";
import {
  CheckpointError,
  ConfigError,
  DeviceError,
  FileError,
  UnsupportedError,
  ValueError,
} from "../../lib/errors.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { createModel, loadModel } from "../../lib/io/load-model.ts";
import { tokenizerOf } from "../../lib/io/model-tokenizer.ts";
import { openSafetensors, writeSafetensors } from "../../lib/io/safetensors.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { createTokenizer } from "../../lib/io/tokenizer.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import { withParameters } from "../../lib/model/model-graph.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { inFolder, namesIn } from "./folder.ts";
import {
  GGML,
  type GgufTensor,
  LLAMA as GGUF_LLAMA,
  llamaTensors,
  writeGguf,
} from "./gguf-writer.ts";
import { hubServer } from "./hub-server.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 40,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  tie_word_embeddings: true,
  initializer_range: 0.3,
};
const IDS = [[3, 1, 4, 1, 5, 9, 2, 6]];

async function logits(model: ModelGraph): Promise<Float32Array> {
  return await toFloat32((await forward(model, { inputIds: IDS })).logits);
}

/** A matrix as Q8_0: in each block of 32 a 16-bit scale (here 0.05) and as many bytes. */
function inBlocks(given: GgufTensor): GgufTensor {
  if (given.dims.length !== 2) return given;
  const [columns, rows] = given.dims;
  const bytes = new Uint8Array(columns * rows / 32 * 34);
  for (let i = 0; i < bytes.length; i++) bytes[i] = 31 * i + 7 * given.name.length;
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 34) view.setFloat16(at, 0.05 / 127, true);
  return { ...given, type: GGML.Q8_0, bytes };
}

const json = async (path: string) => JSON.parse(await Deno.readTextFile(path));

Deno.test("createModel: weights have the config's deviation, norms are 1, biases 0, and the seed decides", async () => {
  using device = await openDevice("cpu");
  const config = { ...CONFIG, model_type: "qwen2", hidden_size: 64, tie_word_embeddings: false };
  const model = await createModel(config, { device, seed: 7 });
  const values = async (name: string, m = model) => [...await toFloat32(m.parameters.get(name)!)];
  const embedding = await values("model.embed_tokens.weight");
  const deviation = Math.sqrt(embedding.reduce((n, x) => n + x * x, 0) / embedding.length);
  assertAlmostEquals(deviation, 0.3, 0.02);
  assert((await values("model.norm.weight")).every((x) => x === 1));
  assert((await values("model.layers.0.self_attn.q_proj.bias")).every((x) => x === 0));
  const head = await values("lm_head.weight");
  assert(head.some((x, i) => x !== embedding[i]));
  const same = await createModel(config, { device, seed: 7 });
  assertEquals(await values("lm_head.weight", same), head);
  const other = await createModel(config, { device, seed: 8 });
  assert((await values("lm_head.weight", other)).some((x, i) => x !== head[i]));
  assertEquals((await createModel(CONFIG, { device })).parameters.has("lm_head.weight"), false);
});

Deno.test("a saved model comes back with the same outputs, its tied weights stored once, its tokenizer beside it", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const made = await createModel(CONFIG, { device, seed: 1 });
    const model: ModelGraph = { ...made, generationConfig: { eos_token_id: [7, 9] } };
    const path = join(folder, "model");
    await saveModel(model, path, { tokenizer: createTokenizer(byteTokenizerFiles()) });
    assertEquals(namesIn(path), [
      "config.json",
      "generation_config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    assertEquals(namesIn(folder), ["model"]);
    const { tensors, metadata } = await openSafetensors(join(path, "model.safetensors"));
    assertEquals(metadata, { format: "pt" });
    assertEquals([tensors.has("lm_head.weight"), tensors.size], [false, 20]);
    assertEquals(await json(join(path, "config.json")), { ...CONFIG, dtype: "float32" });
    const again = await loadModel(path, { device });
    assertStrictEquals(again.device, device);
    assertEquals(again.source, path);
    assertEquals(again.generationConfig, { eos_token_id: [7, 9] });
    assertEquals(await logits(again), await logits(model));
    assertEquals((await tokenizerOf(again)).encode("hi"), [104, 105]);
    assertStrictEquals(await tokenizerOf({ ...again, source: null }), await tokenizerOf(again));
    // What is derived from a loaded model brings the tokenizer along when it is saved.
    await saveModel({ ...again, source: null }, join(folder, "copy"));
    assertEquals(
      await json(join(folder, "copy", "tokenizer.json")),
      await json(join(path, "tokenizer.json")),
    );
  });
});

Deno.test("types: weights are cast when loaded or saved, and the config says so", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const model = await createModel({ ...CONFIG, torch_dtype: "float32" }, { device, seed: 2 });
    const full = await logits(model);
    await saveModel(model, folder, { dtype: "bf16" });
    const config = await json(join(folder, "config.json"));
    assertEquals([config.torch_dtype, "dtype" in config], ["bfloat16", false]);
    const half = await loadModel(folder, { device });
    assert([...half.parameters.values()].every((t) => t.dtype === "bf16"));
    const rounded = await logits(half);
    assert(rounded.some((x, i) => x !== full[i]));
    rounded.forEach((x, i) => assertAlmostEquals(x, full[i], 0.1));
    const wide = await loadModel(folder, { device, dtype: "f32" });
    assert([...wide.parameters.values()].every((t) => t.dtype === "f32"));
    assertEquals(await logits(wide), rounded);
  });
});

Deno.test("a tie that was cut stays cut", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const model = await createModel(CONFIG, { device, seed: 3 });
    const head = tensor(Float32Array.from({ length: 640 }, (_, i) => Math.sin(i)), {
      shape: [40, 16],
    });
    const untied = withParameters(model, new Map([["lm_head.weight", head]]));
    const full = await logits(model);
    const expected = await logits(untied);
    assert(expected.some((x, i) => Math.abs(x - full[i]) > 0.1), "the head matters");
    await saveModel(untied, folder);
    assertEquals((await json(join(folder, "config.json"))).tie_word_embeddings, false);
    assertEquals(await logits(await loadModel(folder, { device })), expected);
  });
});

Deno.test("large models are stored in shards, and other shards of an earlier save go", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const model = await createModel(CONFIG, { device, seed: 4 });
    await saveModel(model, folder, { maxShardSize: 5000 });
    const index = await json(join(folder, "model.safetensors.index.json"));
    const shards = namesIn(folder).filter((n) => n.startsWith("model-"));
    assert(shards.length > 2);
    assertEquals([...new Set(Object.values(index.weight_map))].sort(), shards);
    const parameters = [...model.parameters.values()].reduce(
      (n, t) => n + t.shape.reduce((a, b) => a * b),
      0,
    );
    assertEquals(index.metadata, { total_parameters: parameters, total_size: 4 * parameters });
    assertEquals(await logits(await loadModel(folder, { device })), await logits(model));
    await Deno.writeTextFile(join(folder, "notes.txt"), "mine");
    await saveModel(model, folder);
    assertEquals(namesIn(folder), ["config.json", "model.safetensors", "notes.txt"]);
    assertEquals(await logits(await loadModel(folder, { device })), await logits(model));
  });
});

Deno.test("a save that fails leaves what was there, and nothing else", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const model = await createModel(CONFIG, { device, seed: 5 });
    const path = join(folder, "model");
    await saveModel(model, path);
    const before = await Deno.readFile(join(path, "model.safetensors"));
    const broken = withParameters(
      model,
      new Map([["model.norm.weight", {
        ...tensor(new Float32Array(16)),
        data: () => Promise.reject(new Error("gone")),
      }]]),
    );
    await assertRejects(() => saveModel(broken, path), Error, "gone");
    assertEquals(namesIn(folder), ["model"]);
    assertEquals(await Deno.readFile(join(path, "model.safetensors")), before);
    await Deno.writeTextFile(join(folder, "file"), "x");
    await assertRejects(() => saveModel(model, join(folder, "file")), FileError);
    assertEquals(namesIn(folder), ["file", "model"]);
  });
});

Deno.test("what does not fit is refused, and a device that was opened for it is closed", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const model = await createModel(CONFIG, { device, seed: 6 });
    await saveModel(model, folder);
    const parameters = new Map(model.parameters);
    parameters.delete("model.norm.weight");
    await writeSafetensors(join(folder, "model.safetensors"), parameters);
    await assertRejects(
      () => loadModel(folder, { device: "cpu" }),
      CheckpointError,
      "model.norm.weight",
    );
    await assertRejects(() => createModel({ model_type: "nope" }), UnsupportedError, "nope");
    await assertRejects(
      () => createModel({ ...CONFIG, hidden_size: "large" }, { device: "cpu" }),
      ConfigError,
      "hidden_size",
    );
    await assertRejects(() => loadModel(join(folder, "none.gguf")), FileError, "does not exist");
    await assertRejects(
      () => createModel(CONFIG, { device: "gpu" as "cpu" }),
      ValueError,
      "auto, cpu",
    );
    assertStrictEquals(await openDevice(device), device);
  });
});

Deno.test("weights that are no floating-point numbers are refused", () =>
  inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const model = await createModel(CONFIG, { device });
    await saveModel(model, folder);
    const name = "model.norm.weight";
    for (const values of [new Int8Array(16), new Uint8Array(16), new BigInt64Array(16)]) {
      const weights = new Map([...model.parameters, [name, tensor(values, { shape: [16] })]]);
      await writeSafetensors(join(folder, "other"), weights);
      await Deno.rename(join(folder, "other"), join(folder, "model.safetensors"));
      await assertRejects(
        () => loadModel(folder, { device }),
        CheckpointError,
        `${name} is of the type`,
      );
    }
  }));

Deno.test("a model of the hub keeps its id as its source, and brings its tokenizer without asking again", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const model = await createModel(CONFIG, { device, seed: 9 });
    const path = join(folder, "model");
    await saveModel(model, path, { tokenizer: createTokenizer(byteTokenizerFiles()) });
    const files = await Promise.all(
      namesIn(path).map(async (name) => [name, await Deno.readFile(join(path, name))] as const),
    );
    const server = hubServer(Object.fromEntries(files));
    const loaded = await loadModel("org/model", {
      device,
      fetch: server.fetch,
      cacheDir: join(folder, "cache"),
    });
    server.online = false;
    assertEquals(loaded.source, "org/model");
    assertEquals(await logits(loaded), await logits(model));
    assertEquals((await tokenizerOf(loaded)).encode("a"), [97]);
  });
});

Deno.test("GGUF: quantized weights stay so, or are made plain, with the same outputs", async () => {
  await inFolder(async (folder) => {
    using device = await openDevice("cpu");
    const path = join(folder, "tiny.gguf");
    await Deno.writeFile(path, writeGguf(GGUF_LLAMA, llamaTensors().map(inBlocks)));
    const quantized = await loadModel(path, { device });
    const plain = await loadModel(path, { device, dequantize: true });
    const types = (m: ModelGraph) => new Set([...m.parameters.values()].map((t) => t.dtype));
    assertEquals([...types(quantized)].sort(), ["f32", "q8_0"]);
    assertEquals([...types(plain)], ["f32"]);
    const found = await logits(quantized);
    const expected = await logits(plain);
    found.forEach((x, i) => assertAlmostEquals(x, expected[i], 2e-2 * Math.max(...expected)));
    await saveModel(quantized, join(folder, "saved"), { tokenizer: false });
    assertEquals(await logits(await loadModel(join(folder, "saved"), { device })), expected);
  });
});

Deno.test("software WebGPU is taken only where it is asked for", async () => {
  using fallback = await openDevice("webgpu-fallback");
  assertEquals(fallback.kind, "webgpu");
  const software = "isFallback" in fallback && fallback.isFallback === true;
  using auto = await openDevice("auto");
  assertEquals(auto.kind, software ? "cpu" : "webgpu");
  if (software) {
    const error = await assertRejects(() => openDevice("webgpu"), DeviceError);
    assertEquals(error.code, "WEBGPU_FALLBACK");
  }
});
