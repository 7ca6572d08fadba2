import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { checkIfPeftModel } from "../../../lib/adapters/checkpoint/check-if-peft-model.ts";
import { ConfigError, FileError, ValueError } from "../../../lib/errors.ts";
import { commonFields } from "../../../lib/methods/config.ts";
import { defaultMethods } from "../../../lib/methods/mod.ts";
import { codeOf, inFolder } from "../../io/folder.ts";
import { hubServer } from "../../io/hub-server.ts";
import { golden } from "../bases.ts";
import cases from "./check-if-peft-model.golden.json" with { type: "json" };

Deno.test("a folder is an adapter where its config names a method", () =>
  inFolder(async (folder) => {
    assertEquals(await checkIfPeftModel(join(golden, "lora", "basic")), true);
    assertEquals(await checkIfPeftModel(new URL(`file://${golden}lora/basic`)), true);
    assertEquals(await checkIfPeftModel(join(golden, "base", "llama")), false);
    assertEquals(await checkIfPeftModel(folder), false);
    const config = join(folder, "adapter_config.json");
    // PEFT takes a config without a method for one, types that it does not check, and the last of
    // two fields of one name.
    const others = ["{}", '{"peft_type": "LORA", "target_modules": 7}', cases.at(-2)!.text];
    for (const { text, is } of cases.filter(({ text }) => text !== null)) {
      await Deno.writeTextFile(config, text!);
      assertEquals(await checkIfPeftModel(folder), is && !others.includes(text!), text!);
    }
    await Deno.writeTextFile(config, '{"peft_type": "LORA", "target_parameters": ["x"]}');
    assertEquals(await checkIfPeftModel(folder, { strict: true }), true);
    await Deno.writeTextFile(config, '{"peft_type": "MINE"}');
    const lora = defaultMethods.get("LORA")!;
    const mine = {
      ...lora,
      type: "MINE",
      config: { peftType: "MINE", fields: commonFields("MINE") },
    };
    const registry = new Map([...defaultMethods, ["MINE", mine]]);
    assertEquals(await checkIfPeftModel(folder, { registry }), true);
    await Deno.mkdir(join(folder, "style"));
    assertEquals(await checkIfPeftModel(folder, { subfolder: "style" }), false);
    await Deno.writeTextFile(join(folder, "style", "adapter_config.json"), '{"peft_type": "IA3"}');
    assertEquals(await checkIfPeftModel(folder, { subfolder: "style" }), true);
    assertEquals(await checkIfPeftModel(config), false, "a file is no folder");
    assertEquals(await checkIfPeftModel(join(folder, "no", "where at all")), false);
  }));

Deno.test("whatever goes wrong means no, or an error where strict is set", () =>
  inFolder(async (folder) => {
    const strict = { strict: true };
    for (const text of ["{", "[]", "", '{"peft_type": "LORA", "peft_type": "IA3"}']) {
      await Deno.writeTextFile(join(folder, "adapter_config.json"), text);
      assertEquals(await checkIfPeftModel(folder), false);
      await assertRejects(() => checkIfPeftModel(folder, strict), FileError);
    }
    await Deno.writeTextFile(join(folder, "adapter_config.json"), '{"peft_type": "ADALORA"}');
    await assertRejects(() => checkIfPeftModel(folder, strict), ConfigError);
    const server = hubServer({ "adapter_config.json": '{"peft_type": "LORA"}', "other.txt": "" });
    const options = { cacheDir: folder, fetch: server.fetch, ...strict };
    const loose = { ...options, strict: false };
    server.online = false;
    assertEquals(await codeOf(checkIfPeftModel("org/model", options)), "HUB_UNREACHABLE");
    assertEquals(await codeOf(checkIfPeftModel("org/private", options)), "HUB_UNREACHABLE");
    assertEquals(await checkIfPeftModel("org/model", loose), false);
    server.online = true;
    assertEquals(await checkIfPeftModel("org/model", options), true);
    assertEquals(server.asked.filter((path) => path.startsWith("download ")), [
      "download adapter_config.json",
    ]);
    assertEquals(await codeOf(checkIfPeftModel("org/private", options)), "HUB_UNAUTHORIZED");
    assertEquals(await checkIfPeftModel("org/private", loose), false);
    assertEquals(await checkIfPeftModel("org/none", options), false);
    const plain = hubServer({ "config.json": "{}" });
    const other = { cacheDir: join(folder, "other"), fetch: plain.fetch };
    assertEquals(await checkIfPeftModel("org/model", other), false);
    assertEquals(await checkIfPeftModel("org/model", { ...options, subfolder: "x" }), false);
    // deno-lint-ignore no-explicit-any -- wrong types are the point
    await assertRejects(() => checkIfPeftModel(3 as any, strict), ValueError);
    // deno-lint-ignore no-explicit-any -- wrong types are the point
    assertEquals(await checkIfPeftModel(3 as any), false);
    // deno-lint-ignore no-explicit-any -- wrong types are the point
    await assertRejects(() => checkIfPeftModel(folder, { strikt: true } as any), ValueError);
  }));
