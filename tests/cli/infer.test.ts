import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { golden } from "../adapters/bases.ts";
import { inFolder } from "../io/folder.ts";
import { cli, jsonLines } from "./run.ts";

const FOLDER = `${golden}inference/`;
const CPU = ["--device", "cpu"] as const;

Deno.test("classify, tag, answer and embed: columns, JSON, lines and adapters", async () => {
  const run = async (args: readonly string[], input?: string) => {
    const { code, out, err } = await cli([...args, ...CPU], { input });
    assertEquals([code, err], [0, ""], args.join(" "));
    return out;
  };
  const classes = `${FOLDER}bert_classes`;
  const best = await run(["classify", classes, "--text", "Hello there", "a"]);
  assertMatch(best, /^((mail|spam|other)\t0\.\d{4}\n){2}$/);
  assertEquals(await run(["classify", classes], "Hello there\n\na\n"), best);
  const adapted = ["--adapter", `${classes}/adapter`, "--labels", "x,y,z", "--json"];
  const [first] = (await run(["classify", classes, ...adapted, "--top-k", "3"], "Hello there\n"))
    .trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(first.map(({ label }: { label: string }) => label).sort(), ["x", "y", "z"]);

  const entities = await run(["tag", `${FOLDER}bert_tags`, "--text", "Hello there, how are you"]);
  assertMatch(entities, /^((PER|LOC)\t0\.\d{4}\t.+\n)+$/);
  const context = "I am fine, thank you.";
  const answers = ["answer", `${FOLDER}bert_answers`, "--top-k", "2"];
  const said = await run([...answers, "--question", "how are you", "--text", context]);
  for (const line of said.trim().split("\n")) {
    assert(context.includes(line.split("\t")[1]), line);
  }
  await inFolder(async (folder) => {
    const rows = await jsonLines(folder, "rows.jsonl", [{ question: "how are you", context }]);
    assertEquals(await run([...answers, "--input", rows]), said);
  });
  const vectors = await run(["embed", `${FOLDER}t5_embed`, "--text", "a", "b", "--json"]);
  assertEquals(vectors.trim().split("\n").map((line) => JSON.parse(line).length), [5, 5]);
});

Deno.test("classify and its like: what cannot be", async () => {
  const none = await cli(["classify", "m"]);
  assertEquals(none.code, 2);
  assertStringIncludes(none.err, "no text was given");
  const asked = await cli(["answer", `${FOLDER}bert_answers`, "--text", "a", ...CPU]);
  assertEquals(asked.code, 1);
  assertStringIncludes(asked.err, "--question");
  const fresh = await cli(["classify", `${golden}base/bert`, "--text", "a", ...CPU]);
  assertStringIncludes(fresh.err, "it is new and random");
  assertStringIncludes(fresh.err, "TOKENIZER_MISSING");
});
