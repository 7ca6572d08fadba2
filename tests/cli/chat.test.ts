import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { generate } from "../../lib/generation/generate.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { randomized } from "../adapters/randomized.ts";
import { inFolder } from "../io/folder.ts";
import { cli, tinyModel } from "./run.ts";

const OPTIONS = ["--device", "cpu", "--max-new-tokens", "6", "--threads", "1"];

/** What a model answers to one question after another. */
async function answers(model: AnyModel, questions: readonly string[], system?: string) {
  const messages = system === undefined ? [] : [{ role: "system", content: system }];
  for (const content of questions) {
    messages.push({ role: "user", content });
    const { text } = await generate(model, messages, { maxNewTokens: 6 });
    messages.push({ role: "assistant", content: text });
  }
  return {
    messages,
    text: messages.filter(({ role }) => role === "assistant").map((m) => m.content),
  };
}

Deno.test("chat: a conversation, taken back, begun anew, answered again and saved", () =>
  inFolder(async (folder) => {
    const path = await tinyModel(folder);
    using device = (await loadModel(path, { device: "cpu" })).device;
    const model = await loadModel(path, { device });
    const chat = (lines: string[], ...more: string[]) =>
      cli(["chat", path, ...OPTIONS, ...more], { input: lines.join("\n") });

    const plain = await answers(model, ["ab", "c\nd", "e"], "s");
    const saved = join(folder, "chat.jsonl");
    const first = await chat(["ab", "", "c\\", "d", "e", `/save ${saved}`], "--system", "s");
    assertEquals([first.code, first.out], [0, plain.text.join("\n") + "\n"]);
    assertEquals(JSON.parse(await Deno.readTextFile(saved)), { messages: plain.messages });
    assertStringIncludes(first.err, "> > > . > > ");

    const again = await answers(model, ["ab", "e"], "s");
    const undone = await chat(
      ["ab", "x", "/undo", "e", "/clear", "ab", "/exit", "zz"],
      "--system",
      "s",
    );
    const [x] = (await answers(model, ["ab", "x"], "s")).text.slice(1);
    assertEquals(undone.out.split("\n"), [again.text[0], x, again.text[1], again.text[0], ""]);
    const other = await chat(["/system s", "ab", "/system", "/undo", "ab"]);
    const [bare] = (await answers(model, ["ab"])).text;
    assertEquals(other.out.split("\n"), [again.text[0], bare, ""]);

    const sampled = await chat([
      "/set temperature 2",
      "/set seed 4",
      "a",
      "/retry",
      "/set seed 4",
      "/undo",
      "a",
    ]);
    const [one, two, same] = sampled.out.split("\n");
    assertEquals(same, one);
    assert(two !== one);
    const stopped = await cli(["chat", path, ...OPTIONS], {
      input: "a\nb",
      interruptAfter: bare[0],
    });
    assertEquals(stopped.code, 130, "not at a keyboard");
  }));

Deno.test("chat: adapters are switched and scaled by commands", () =>
  inFolder(async (folder) => {
    const path = await tinyModel(folder);
    using device = (await loadModel(path, { device: "cpu" })).device;
    const base = await loadModel(path, { device });
    const models = new Map<string, AnyModel>([["base", base]]);
    for (const [name, seed] of [["one", 3], ["two", 8]] as const) {
      const config = loraConfig({ r: 2, targetModules: "all-linear", taskType: "CAUSAL_LM" });
      const model = await randomized(getPeftModel(base, config), seed);
      await savePretrained(model, join(folder, name));
      models.set(name, model);
    }
    const [one, two] = ["one", "two"].map((name) => join(folder, name));
    const both = setAdapter(
      await loadAdapter(models.get("one")!, two, { adapterName: "two" }),
      ["two", "default"],
    );
    const { value: doubled } = await withAdapterScale(models.get("two")! as never, 2, (m) => m);
    const answer = async (model: AnyModel) => (await answers(model, ["ab"])).text[0];
    const run = (lines: string[], ...more: string[]) =>
      cli(["chat", path, ...OPTIONS, ...more], {
        input: lines.flatMap((line) => line ? [line] : ["ab", "/undo"]).join("\n"),
      });

    const { code, out, err } = await run(
      [
        "",
        "/adapter b",
        "",
        "/scale 2",
        "",
        "/adapters",
        "/adapter none",
        "",
        "/scale b 1",
        "/adapter two",
        "",
      ],
      ...["--adapter", one, `b=${two}`],
    );
    const expected = [models.get("one")!, models.get("two")!, doubled, base];
    const texts = await Promise.all(expected.map(answer));
    assertEquals(new Set(texts).size, 4, "each says something else");
    assertEquals(out, [...texts, texts[3], ""].join("\n"));
    assertStringIncludes(err, "  one (LORA)\n* b (LORA, scaled by 2)\n");
    assertEquals(code, 1);
    assertStringIncludes(err, "ValueError [ADAPTER_UNKNOWN]");

    const loaded = await run([
      `/load ${two}`,
      "",
      `/load ${one} first`,
      "",
      "/adapter two first",
      "",
    ]);
    assertEquals(loaded.code, 0, loaded.err);
    assertEquals(loaded.out, [texts[1], texts[0], await answer(both), ""].join("\n"));
    for (
      const [line, part] of [
        ["/nothing", "there are /help"],
        ["/scale", "number"],
        ["/scale 2", "No adapter is in use"],
        ["/scale one 2", "/load"],
        ["/set nothing 1", "max-new-tokens"],
        ["/set top-p 3", "number from 0 to 1"],
        ["/load", "folder"],
        ["/load nowhere/at/all", "FILE_NOT_FOUND"],
        ["/adapter one", "/load"],
        ["/retry", "Nothing was asked"],
        ["/save", "file"],
        ["a".repeat(200), "PROMPT_TOO_LONG"],
      ]
    ) {
      const failed = await run([line, ""]);
      assertEquals([failed.code, failed.out], [1, `${texts[3]}\n`], line);
      assertStringIncludes(failed.err, part);
    }
  }));
