import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { parse } from "yaml";
import { emptyModel, getPeftModel } from "../../../lib/adapters/inject.ts";
import { createOrUpdateModelCard } from "../../../lib/adapters/checkpoint/model-card.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { FileError, ValueError } from "../../../lib/errors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import { inFolder, namesIn } from "../../io/folder.ts";
import { goldenBase } from "../bases.ts";
import index from "../../golden/conversion/conversion.json" with { type: "json" };

async function model(change: (base: ModelGraph) => Partial<ModelGraph> = () => ({})) {
  const base = { ...await goldenBase("llama"), source: "base/llama" };
  return getPeftModel({ ...base, ...change(base) }, loraConfig({ taskType: "CAUSAL_LM" }));
}

/** The card that becomes of another: its metadata and its text. */
async function cardOf(given: PeftModel, existing?: string) {
  let text = "";
  await inFolder(async (folder) => {
    const path = join(folder, "README.md");
    if (existing !== undefined) await Deno.writeTextFile(path, existing);
    await createOrUpdateModelCard(given, folder);
    text = await Deno.readTextFile(path);
    await createOrUpdateModelCard(given, folder);
    assertEquals(await Deno.readTextFile(path), text, "a second time changes nothing");
  });
  const [, front, body] = /^---\n([\s\S]*?)---\n([\s\S]*)$/.exec(text)!;
  return { text, metadata: parse(front) as Record<string, unknown>, body };
}

const lines = (text: string) => text.split("\n").filter((line) => line.trim());

Deno.test("a card has PEFT's metadata and keeps its text", async () => {
  for (const { existing, metadata, body } of index.cards) {
    const card = await cardOf(await model(), existing || undefined);
    assertEquals(card.metadata, metadata as Record<string, unknown>, existing);
    // Where there was none, PEFT fills a template of its own. Empty lines say nothing.
    if (existing) assertEquals(lines(card.body), lines(body), existing);
    else assertEquals(lines(card.body).slice(-2), lines(body).slice(-2));
  }
});

Deno.test("what a card has of its own stays, in its order and with its comments", async () => {
  const own = [
    "---",
    "# mine",
    "license: mit # free",
    "tags: [style, 'base_model:adapter:old/base', lora]",
    "datasets:",
    "  - a/b",
    'base_model: "old/base"',
    "widget: { text: 'yes' }",
    "---",
    "",
    "# Title",
    "---",
    "text",
    "",
  ].join("\n");
  const { text, metadata, body } = await cardOf(await model(), own);
  assert(text.startsWith("---\n# mine\nlicense: mit # free\ntags:\n"), text);
  assertEquals(metadata, {
    license: "mit",
    tags: ["base_model:adapter:base/llama", "lora", "style", "transformers"],
    datasets: ["a/b"],
    base_model: "base/llama",
    widget: { text: "yes" },
    library_name: "peft",
    pipeline_tag: "text-generation",
  });
  assert(body.startsWith("\n# Title\n---\ntext\n"), body);
  assert(body.endsWith("\n\n### Framework versions\n\n- PEFT 0.21.0"), body);
  const windows = await cardOf(await model(), own.replaceAll("\n", "\r\n"));
  assertEquals(windows.metadata, metadata);
  const one = await cardOf(await model(), "---\ntags: solo\n---\n");
  assertEquals((one.metadata.tags as string[]).includes("solo"), true);
});

Deno.test("no path of this machine is written into a card", async () => {
  const hub = "/home/u/.cache/huggingface/hub/models--org--tiny-llama/snapshots/0123/";
  const cases: [string, string | undefined, string | undefined][] = [
    ["/home/user/models/tiny llama", undefined, undefined],
    ["file:///home/user/models/tiny.gguf", undefined, undefined],
    ["/home/user/models/tiny", "org/tiny", "org/tiny"],
    ["/home/user/models/tiny", "/home/user/models/tiny", undefined],
    [hub, undefined, "org/tiny-llama"],
    ["base/llama", "org/tiny", "base/llama"],
  ];
  for (const [source, origin, id] of cases) {
    const given = await model(({ config }) => ({
      source,
      config: { ...config, _name_or_path: origin },
    }));
    const { text, metadata } = await cardOf(given);
    assertEquals(metadata.base_model, id);
    assert(!text.includes("/home"), text);
    assertStringIncludes(text, id ?? (source.endsWith("f") ? "`tiny.gguf`" : "`tiny"));
  }
});

Deno.test("names are written so that they are read again", async () => {
  for (const source of ["a: b", "yes", "123", "- x", "'q\"", "a/b c#d", "x".repeat(200) + " y"]) {
    const given = await model(() => ({ source }));
    const { metadata } = await cardOf(given);
    assertEquals(metadata.base_model, source);
    assert((metadata.tags as string[]).includes(`base_model:adapter:${source}`));
  }
  const nameless = await cardOf(await model(() => ({ source: null })));
  assertEquals(nameless.metadata, {
    library_name: "peft",
    pipeline_tag: "text-generation",
    tags: ["lora", "transformers"],
  });
  const base = await goldenBase("llama");
  const { metadata } = await cardOf(getPeftModel(base, loraConfig()));
  assertEquals(metadata.pipeline_tag, undefined);
});

Deno.test("a quantized base is told once", async () => {
  const quantized = (base: ModelGraph) => ({
    parameters: new Map(
      [...base.parameters].map(([name, t], i) => [
        name,
        i < 2 ? { ...t, dtype: "q4_1" as const } : i < 3 ? { ...t, dtype: "q8_0" as const } : t,
      ]),
    ),
  });
  const text = "The following `GGUF` quantization of the base was used during training:";
  const { body } = await cardOf(await model(quantized));
  assertStringIncludes(
    body,
    `\n\n## Training procedure\n\n${text}\n- Q4_1: 2 weights\n- Q8_0: 1 weight\n\n### Framework versions\n\n- PEFT 0.21.0`,
  );
  const own = "# Mine\n\n## Training procedure\n\nFor a week.\n\n## Results\n\nGood.\n";
  const { body: kept } = await cardOf(await model(quantized), own);
  assertStringIncludes(
    kept,
    `## Training procedure\n\n${text}\n- Q4_1: 2 weights\n- Q8_0: 1 weight\n\nFor a week.\n\n## Results\n\nGood.\n\n###`,
  );
  assert(!(await cardOf(await model())).body.includes("quantization"));
});

Deno.test("a card that cannot be read is not written over", () =>
  inFolder(async (folder) => {
    const given = await model();
    const path = join(folder, "README.md");
    for (
      const text of [
        "---\na: [1\n---\n",
        "---\n- a\n- b\n---\n",
        "---\na: 1\na: 2\n---\nx",
        "---\ntags: { a: 1 }\n---\n",
      ]
    ) {
      await Deno.writeTextFile(path, text);
      for (const write of [createOrUpdateModelCard, savePretrained]) {
        const error = await assertRejects(() => write(given, folder), FileError, path);
        assertEquals(error.code, "CARD_INVALID");
        assertEquals([namesIn(folder), await Deno.readTextFile(path)], [["README.md"], text]);
      }
    }
    await Deno.writeFile(path, new Uint8Array([0x2d, 0xff, 0xfe]));
    await assertRejects(() => createOrUpdateModelCard(given, folder), FileError, "UTF-8");

    const deep = join(folder, "new", "er");
    await createOrUpdateModelCard(given, new URL(`file://${deep}`));
    assertEquals(namesIn(deep), ["README.md"]);
    const none = emptyModel(given.base);
    const error = await assertRejects(() => createOrUpdateModelCard(none, folder), ValueError);
    assertEquals(error.code, "NO_ADAPTERS");
    // deno-lint-ignore no-explicit-any -- wrong types are the point
    await assertRejects(() => createOrUpdateModelCard(given.base as any, folder), ValueError);
    await assertRejects(() => createOrUpdateModelCard(given, ""), ValueError);
  }));
