import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { FileError } from "../../lib/errors.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { openCheckpoint } from "../../lib/io/checkpoint.ts";
import { encodeSafetensors, tensor, writeSafetensors } from "../../lib/io/safetensors.ts";
import { loadTokenizer } from "../../lib/io/tokenizer.ts";
import { codeOf, inFolder } from "./folder.ts";
import { LLAMA, llamaTensors, writeGguf } from "./gguf-writer.ts";
import { COMMIT, hubServer } from "./hub-server.ts";

const CONFIG = JSON.stringify({ model_type: "llama", hidden_size: 2 });
const write = (folder: string, name: string, text: unknown) =>
  Deno.writeTextFile(join(folder, name), typeof text === "string" ? text : JSON.stringify(text));

async function single(folder: string): Promise<void> {
  await write(folder, "config.json", CONFIG);
  await write(folder, "generation_config.json", { eos_token_id: [1, 2] });
  await writeSafetensors(join(folder, "model.safetensors"), { w: tensor([[1.5, -2]]) });
}

Deno.test("a folder with one file of weights", () =>
  inFolder(async (folder) => {
    await single(folder);
    const path = join(folder, "model.safetensors");
    for (const source of [folder, path, new URL(`file://${folder}`)]) {
      const { config, generationConfig, parameters, source: from } = await openCheckpoint(source);
      assertEquals([config.hidden_size, generationConfig], [2, { eos_token_id: [1, 2] }]);
      assertEquals(await parameters.get("w")!.data(), Float32Array.of(1.5, -2));
      assertEquals([from.format, from.files, from.revision], ["safetensors", [path], undefined]);
    }
    assertEquals((await openCheckpoint(folder)).source.name, folder);
    assertEquals(await codeOf((await openCheckpoint(folder)).readTokenizer()), "TOKENIZER_MISSING");
    const files = byteTokenizerFiles();
    await write(folder, "tokenizer.json", files.tokenizer);
    assertEquals((await loadTokenizer(await openCheckpoint(folder))).encode("é"), [195, 169]);
  }));

async function sharded(folder: string): Promise<void> {
  await write(folder, "config.json", CONFIG);
  const shard = (i: number) => `model-0000${i}-of-00002.safetensors`;
  await writeSafetensors(join(folder, shard(1)), {
    a: tensor([1]),
    b: tensor([2]),
    extra: tensor([7]),
  });
  // A shard may hold a copy of what the index takes from another.
  await writeSafetensors(join(folder, shard(2)), { c: tensor([3]), a: tensor([-1]) });
  await write(folder, "model.safetensors.index.json", {
    metadata: { total_size: 12 },
    weight_map: { a: shard(1), b: shard(1), c: shard(2) },
  });
}

Deno.test("a folder with shards", () =>
  inFolder(async (folder) => {
    await sharded(folder);
    const { parameters, source } = await openCheckpoint(folder);
    const values: Record<string, unknown> = {};
    for (const [key, t] of parameters) values[key] = (await t.data())[0];
    assertEquals(values, { a: 1, b: 2, extra: 7, c: 3 });
    assertEquals(source.files.length, 2);
  }));

Deno.test("parameters can be called what every object has", () =>
  inFolder(async (folder) => {
    await write(folder, "config.json", CONFIG);
    const names = ["constructor", "__proto__", "toString"], shard = "model-1.safetensors";
    await writeSafetensors(join(folder, shard), new Map(names.map((name) => [name, tensor([1])])));
    for (const map of [`{"constructor":"${shard}"}`, `{"__proto__":"${shard}"}`]) {
      await write(folder, "model.safetensors.index.json", `{"weight_map":${map}}`);
      assertEquals([...(await openCheckpoint(folder)).parameters.keys()].sort(), names.sort());
    }
  }));

Deno.test("a missing shard is named with what it holds", () =>
  inFolder(async (folder) => {
    await sharded(folder);
    await Deno.remove(join(folder, "model-00001-of-00002.safetensors"));
    const error = await assertRejects(
      () => openCheckpoint(folder),
      FileError,
      "model-00001-of-00002",
    );
    assertEquals([error.code, error.details.keys], ["CHECKPOINT_SHARD", ["a", "b"]]);
    assertEquals(error.message.includes(`"a", "b"`), true, error.message);
  }));

Deno.test("an index that does not fit its shards is refused", () =>
  inFolder(async (folder) => {
    await sharded(folder);
    const index = "model.safetensors.index.json", shard = "model-00002-of-00002.safetensors";
    await write(folder, index, { weight_map: { c: shard, d: shard } });
    const error = await assertRejects(() => openCheckpoint(folder), FileError, `"d"`);
    assertEquals(error.code, "CHECKPOINT_KEY");
    for (
      const map of [{ c: "../c.safetensors" }, { c: 5 }, { c: "" }, { c: "a\0" }, {}, null, "x"]
    ) {
      await write(folder, index, { weight_map: map });
      assertEquals(await codeOf(openCheckpoint(folder)), "CHECKPOINT_INDEX");
    }
    await write(folder, index, `{"weight_map":{"c":"${shard}","c":"${shard}"}}`);
    assertEquals(await codeOf(openCheckpoint(folder)), "JSON_DUPLICATE_KEY");
  }));

Deno.test("a damaged shard is refused when the checkpoint is opened", () =>
  inFolder(async (folder) => {
    await sharded(folder);
    const path = join(folder, "model-00002-of-00002.safetensors");
    await Deno.truncate(path, (await Deno.stat(path)).size - 1);
    assertEquals(await codeOf(openCheckpoint(folder)), "SAFETENSORS_TRUNCATED");
  }));

Deno.test("a GGUF file, alone, in a folder or one of several", () =>
  inFolder(async (folder) => {
    const tokens = Object.keys(
      (byteTokenizerFiles().tokenizer.model as { vocab: Record<string, number> }).vocab,
    );
    const metadata = {
      ...LLAMA,
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.merges": [`${tokens[104]} ${tokens[105]}`],
    };
    const path = join(folder, "a.gguf");
    await Deno.writeFile(path, writeGguf(metadata, llamaTensors()));
    for (const source of [folder, path]) {
      const checkpoint = await openCheckpoint(source);
      assertEquals(checkpoint.config.model_type, "llama");
      assertEquals([checkpoint.source.format, checkpoint.source.files], ["gguf", [path]]);
      assertEquals(checkpoint.parameters.has("model.norm.weight"), true);
    }
    const bytes = await Deno.readFile(path);
    const remote = await openCheckpoint("https://example.org/a.gguf", {
      fetch: () => Promise.resolve(new Response(bytes)),
    });
    assertEquals(remote.parameters.size, 12);
    await Deno.copyFile(path, join(folder, "b.gguf"));
    const error = await assertRejects(() => openCheckpoint(folder), FileError, "a.gguf, b.gguf");
    assertEquals(error.code, "CHECKPOINT_WEIGHTS");
    assertEquals((await openCheckpoint(folder, { file: "b.gguf" })).parameters.size, 12);
    const files = await (await openCheckpoint(path)).readTokenizer();
    assertEquals((files.tokenizer.model as { merges: string[] }).merges, ["h i"]);
  }));

Deno.test("folders without a model say what is in the way", () =>
  inFolder(async (folder) => {
    const refused = async (message: string, code = "CHECKPOINT_WEIGHTS") => {
      const error = await assertRejects(() => openCheckpoint(folder), FileError, message);
      assertEquals(error.code, code);
    };
    await refused("no model.safetensors");
    await write(folder, "pytorch_model.bin", "");
    await refused("another format");
    await write(folder, "adapter_config.json", {});
    await refused("adapter");
    await Deno.remove(join(folder, "adapter_config.json"));
    await writeSafetensors(join(folder, "model.safetensors"), {});
    await refused("config.json", "CHECKPOINT_CONFIG");
    await write(folder, "config.json", "{");
    await refused("config.json", "JSON_INVALID");
    assertEquals(await codeOf(openCheckpoint(join(folder, "config.json"))), "CHECKPOINT_WEIGHTS");
    assertEquals(await codeOf(openCheckpoint("./no/such/folder")), "FILE_NOT_FOUND");
    assertEquals(await codeOf(openCheckpoint("missing.gguf")), "FILE_NOT_FOUND");
    for (const path of ["tests/none", "lib/no.such", "none/", "a/b/c", "..\\none", "~/none"]) {
      assertEquals(await codeOf(openCheckpoint(path, { offline: true })), "FILE_NOT_FOUND", path);
    }
    for (const id of ["gpt2", "organization/name"]) {
      const asked = openCheckpoint(id, { offline: true, cacheDir: folder });
      assertEquals(await codeOf(asked), "HUB_UNREACHABLE", id);
    }
    assertEquals(await codeOf(openCheckpoint("https://example.org/model")), "CHECKPOINT_WEIGHTS");
  }));

Deno.test("a model on the hub is downloaded and opened", () =>
  inFolder(async (cacheDir) => {
    const server = hubServer({
      "config.json": CONFIG,
      "model.safetensors": await encodeSafetensors({ w: tensor([4]) }),
      "tokenizer.json": JSON.stringify(byteTokenizerFiles().tokenizer),
      "q4.gguf": writeGguf(LLAMA, llamaTensors()),
    });
    const options = { cacheDir, fetch: server.fetch };
    const checkpoint = await openCheckpoint("org/model", options);
    assertEquals([checkpoint.source.name, checkpoint.source.revision], ["org/model", COMMIT]);
    assertEquals((await loadTokenizer(checkpoint)).encode("a"), [97]);
    assertEquals(server.asked.includes("download q4.gguf"), false);
    const gguf = await openCheckpoint("org/model", { ...options, file: "q4.gguf" });
    assertEquals([gguf.source.format, gguf.parameters.size], ["gguf", 12]);
    assertEquals((await loadTokenizer("org/model", options)).encode("b"), [98]);
  }));
