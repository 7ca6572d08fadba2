/**
 * Tokens that only the files beside tokenizer.json know; see added-tokens.golden.py.
 */
import { assertEquals } from "@std/assert";
import { join } from "node:path";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { createTokenizer, loadTokenizer } from "../../lib/io/tokenizer.ts";
import golden from "./added-tokens.golden.json" with { type: "json" };
import { inFolder } from "./folder.ts";

for (const [name, { tokenizer, files, ...expected }] of Object.entries(golden.cases)) {
  Deno.test(`${name}: tokens are added as transformers adds them`, async () => {
    await inFolder(async (folder) => {
      for (const [file, content] of Object.entries({ ...files, "tokenizer.json": tokenizer })) {
        await Deno.writeTextFile(join(folder, file), JSON.stringify(content));
      }
      const found = await loadTokenizer(folder);
      const added = found.files.tokenizer.added_tokens as { id: number; content: string }[];
      assertEquals(
        Object.fromEntries(added.map(({ id, content }) => [String(id), content])),
        expected.added,
      );
      const ids = golden.texts.map((text) => found.encode(text, { addSpecialTokens: false }));
      assertEquals(ids, expected.ids);
      assertEquals([found.bosId, found.eosId, found.padId].map((id) => id ?? null), expected.named);
      for (const id of expected.special) assertEquals(found.specialIds.has(id), true, `${id}`);
    });
  });
}

Deno.test("chat templates lie in files of their own too", async () => {
  await inFolder(async (folder) => {
    const { tokenizer, config } = byteTokenizerFiles({ chatTemplate: "config" });
    await Deno.writeTextFile(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
    await Deno.writeTextFile(join(folder, "tokenizer_config.json"), JSON.stringify(config));
    const templates = async () => (await loadTokenizer(folder)).chatTemplates;
    assertEquals(await templates(), { default: "config" });
    await Deno.writeTextFile(join(folder, "chat_template.jinja"), "file");
    assertEquals(await templates(), { default: "file" });
    await Deno.mkdir(join(folder, "additional_chat_templates"));
    const other = join(folder, "additional_chat_templates", "tool_use.jinja");
    await Deno.writeTextFile(other, "tools");
    assertEquals(await templates(), { default: "file", tool_use: "tools" });
  });
});

Deno.test("bytes that a vocabulary falls back to keep U+FEFF", () => {
  const bytes = Array.from({ length: 256 }, (_, byte) => {
    const hex = byte.toString(16).toUpperCase().padStart(2, "0");
    return [`<0x${hex}>`, byte] as const;
  });
  const tokenizer = createTokenizer({
    tokenizer: {
      model: { type: "BPE", vocab: Object.fromEntries(bytes), merges: [], byte_fallback: true },
      decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] },
    },
    config: {},
  });
  const text = "\ufeffa\ufeff é";
  assertEquals(tokenizer.encode(text), [...new TextEncoder().encode(text)]);
  assertEquals(tokenizer.decode(tokenizer.encode(text)), text);
});
