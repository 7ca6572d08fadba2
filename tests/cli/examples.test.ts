import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { showExample } from "../../lib/cli/examples.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { loadTokenizer } from "../../lib/io/tokenizer.ts";
import { inFolder } from "../io/folder.ts";
import { cli, jsonLines, tinyModel } from "./run.ts";

const CHAT = {
  messages: [
    { role: "user", content: "hé" },
    { role: "assistant", content: "ho" },
    { role: "user", content: "more" },
    { role: "assistant", content: "no" },
  ],
};
const SHOWN =
  "example 1: 49 tokens, 6 learned\n<user>hé<eos><assistant>⟦ho<eos>⟧<user>more<eos><assistant>⟦no<eos>⟧\n\n";

Deno.test("examples are shown with what is learned, and rows that are not what they seem are counted", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const rows = [CHAT, { text: "x".repeat(70), id: 1 }, { prompt: "a", completion: "" }];
    const data = await jsonLines(folder, "data.jsonl", rows);
    const plan = await cli(
      ["plan", model, "--data", data, "--show-example", "1", "--max-length", "64"],
    );
    assertEquals(plan.code, 0, plan.err);
    assertStringIncludes(plan.out, SHOWN);
    assertStringIncludes(plan.out, "data: 4 examples, 122 tokens, 78 learned\n");
    const notes = [
      `${data}: The field "id" of Row 2 is not read.\n`,
      `${data}: Row 2: longer than 64 tokens, cut into several examples.\n`,
      `${data}: Row 3: what is learned is an empty text.\n`,
    ].join("");
    assertEquals(plan.err, notes);
    const train = await cli([
      ...["train", model, "--data", data, "--out", `${folder}/out`, "--device", "cpu"],
      ...["--max-length", "64", "--show-example", "1", "--max-steps", "1"],
    ]);
    assertEquals(train.code, 0, train.err);
    assertEquals(train.out.slice(0, SHOWN.length), SHOWN);
    assertStringIncludes(train.err, notes);
    const json = JSON.parse((await cli(["plan", model, "--data", data, "--json"])).out);
    assertEquals([json.data.examples, json.data.notes.length], [3, 2]);
    for (const fate of ["drop", "refuse"]) {
      const other = await cli([
        ...["plan", model, "--data", data, "--max-length", "64", "--long-rows", fate, "--json"],
      ]);
      if (fate === "drop") assertEquals(JSON.parse(other.out).data.examples, 2);
      else assertMatch(other.err, /^ValueError \[DATA_LENGTH\]: .*Row 2: longer than 64.*\n$/);
    }
    const missing = await cli(["plan", model, "--show-example", "1"]);
    assertEquals(missing.code, 2);
    assertStringIncludes(missing.err, "--data");
  });
});

Deno.test("in colour the marks are colours, and a character belongs to its last byte", async () => {
  const tokenizer = await loadTokenizer(byteTokenizerFiles());
  const ids = [97, 195, 169, 98];
  const show = (learned: number, color: boolean) =>
    showExample({ ids, labels: ids.map((id, i) => i < learned ? -100 : id) }, tokenizer, { color });
  assertEquals(show(3, true), "aé\x1b[1;32mb\x1b[0m");
  assertEquals(show(2, false), "a⟦éb⟧");
  assertEquals(show(0, false), "⟦aéb⟧");
});

Deno.test("a padding token that the model has no row for pads all the same", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const file = `${model}/tokenizer_config.json`;
    const config = JSON.parse(await Deno.readTextFile(file));
    await Deno.writeTextFile(file, JSON.stringify({ ...config, pad_token: "[PAD]" }));
    const data = await jsonLines(folder, "data.jsonl", [{ text: "a" }, { text: "abcdef" }]);
    const train = await cli([
      ...["train", model, "--data", data, "--out", `${folder}/out`, "--device", "cpu"],
      ...["--max-steps", "1"],
    ]);
    assertEquals(train.code, 0, train.err);
  });
});
