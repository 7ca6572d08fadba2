import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { checkIfPeftModel } from "../../../lib/adapters/checkpoint/check-if-peft-model.ts";
import { FileError, ValueError } from "../../../lib/errors.ts";
import { defaultMethods } from "../../../lib/methods/mod.ts";
import { codeOf, inFolder } from "../../io/folder.ts";
import { hubServer } from "../../io/hub-server.ts";
import { golden } from "../bases.ts";

Deno.test("a folder is an adapter where its config names a method", () =>
  inFolder(async (folder) => {
    assertEquals(await checkIfPeftModel(join(golden, "lora", "basic")), true);
    assertEquals(await checkIfPeftModel(new URL(`file://${golden}lora/basic`)), true);
    assertEquals(await checkIfPeftModel(join(golden, "base", "llama")), false);
    assertEquals(await checkIfPeftModel(folder), false);
    const config = join(folder, "adapter_config.json");
    const cases: [string, boolean][] = [
      ['{"peft_type": "LORA", "r": 3}', true],
      // Fields of a later release do not make it something else, and neither does a method that
      // only PEFT has.
      ['{"peft_type": "LORA", "rnak": 3}', true],
      ['{"peft_type": "ADALORA"}', true],
      ['{"peft_type": "NOPE"}', false],
      ['{"peft_type": 3}', false],
      ['{"architecture": "pfeiffer"}', false],
      ["{}", false],
    ];
    for (const [text, expected] of cases) {
      await Deno.writeTextFile(config, text);
      assertEquals(await checkIfPeftModel(folder), expected, text);
    }
    await Deno.writeTextFile(config, '{"peft_type": "MINE"}');
    const registry = new Map([...defaultMethods, ["MINE", defaultMethods.get("LORA")!]]);
    assertEquals(await checkIfPeftModel(folder, { registry }), true);
    await Deno.mkdir(join(folder, "style"));
    assertEquals(await checkIfPeftModel(folder, { subfolder: "style" }), false);
    await Deno.writeTextFile(join(folder, "style", "adapter_config.json"), '{"peft_type": "IA3"}');
    assertEquals(await checkIfPeftModel(folder, { subfolder: "style" }), true);
    assertEquals(await checkIfPeftModel(config), false, "a file is no folder");
    assertEquals(await checkIfPeftModel(join(folder, "no", "where at all")), false);
  }));

Deno.test("a damaged config and an unreachable hub are errors, not an answer", () =>
  inFolder(async (folder) => {
    for (const text of ["{", "[]", "", '{"peft_type": "LORA", "peft_type": "IA3"}']) {
      await Deno.writeTextFile(join(folder, "adapter_config.json"), text);
      await assertRejects(() => checkIfPeftModel(folder), FileError);
    }
    const server = hubServer({ "adapter_config.json": '{"peft_type": "LORA"}', "other.txt": "" });
    const options = { cacheDir: folder, fetch: server.fetch };
    server.online = false;
    assertEquals(await codeOf(checkIfPeftModel("org/model", options)), "HUB_UNREACHABLE");
    assertEquals(await codeOf(checkIfPeftModel("org/private", options)), "HUB_UNREACHABLE");
    server.online = true;
    assertEquals(await checkIfPeftModel("org/model", options), true);
    assertEquals(server.asked.filter((path) => path.startsWith("download ")), [
      "download adapter_config.json",
    ]);
    assertEquals(await codeOf(checkIfPeftModel("org/private", options)), "HUB_UNAUTHORIZED");
    assertEquals(await checkIfPeftModel("org/none", options), false);
    const plain = hubServer({ "config.json": "{}" });
    const other = { cacheDir: join(folder, "other"), fetch: plain.fetch };
    assertEquals(await checkIfPeftModel("org/model", other), false);
    assertEquals(await checkIfPeftModel("org/model", { ...options, subfolder: "x" }), false);
    // deno-lint-ignore no-explicit-any -- wrong types are the point
    await assertRejects(() => checkIfPeftModel(3 as any), ValueError);
  }));
