import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadPeftConfig } from "../../../lib/adapters/checkpoint/load-peft-config.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { ConfigError, FileError, UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { commonFields } from "../../../lib/methods/config.ts";
import { type LoraConfig, loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { defaultMethods, registerPeftMethod } from "../../../lib/methods/mod.ts";
import { toPeftJson } from "../../../lib/methods/peft-json.ts";
import { codeOf, inFolder } from "../../io/folder.ts";
import { hubServer } from "../../io/hub-server.ts";
import { golden, goldenBase } from "../bases.ts";
import cases from "../../golden/cases.json" with { type: "json" };

Deno.test("configs of PEFT are read, and written again as they were", async () => {
  for (const { name, adapters } of cases.lora) {
    for (const subfolder of adapters.length ? adapters : [undefined]) {
      const folder = join(golden, "lora", name);
      const config = await loadPeftConfig(folder, { subfolder });
      const wanted = await readJsonFile(join(folder, subfolder ?? "", "adapter_config.json"));
      assertEquals(JSON.parse(toPeftJson(config)), wanted, name);
    }
  }
});

Deno.test("only the config is needed, from a folder or from the hub", () =>
  inFolder(async (folder) => {
    const config = loraConfig({ r: 3, targetModules: ["q_proj"], taskType: "CAUSAL_LM" });
    await savePretrained(getPeftModel(await goldenBase("llama"), config), folder);
    await Deno.remove(join(folder, "adapter_model.safetensors"));
    const read = await loadPeftConfig(new URL(`file://${folder}`)) as LoraConfig;
    assertEquals([read.r, read.taskType, read.targetModules], [3, "CAUSAL_LM", ["q_proj"]]);
    assertStringIncludes(read.baseModelNameOrPath!, "base/llama");

    const text = await Deno.readTextFile(join(folder, "adapter_config.json"));
    const server = hubServer({
      "style/adapter_config.json": text,
      "adapter_model.safetensors": "",
    });
    const hub = { cacheDir: join(folder, "cache"), fetch: server.fetch };
    assertEquals(await loadPeftConfig("org/model", { ...hub, subfolder: "style" }), read);
    assertEquals(server.asked.filter((path) => path.startsWith("download ")), [
      "download style/adapter_config.json",
    ]);
    assertEquals(await codeOf(loadPeftConfig("org/model", hub)), "HUB_FILE_MISSING");
  }));

Deno.test("a method from outside", () =>
  inFolder(async (folder) => {
    const lora = defaultMethods.get("LORA")!;
    const registry = registerPeftMethod(defaultMethods, {
      ...lora,
      name: "mine",
      config: {
        ...lora.config,
        peftType: "MINE",
        fields: { ...lora.config.fields, ...commonFields("MINE") },
      },
    });
    const json = { peft_type: "MINE", r: 5 };
    await Deno.writeTextFile(join(folder, "adapter_config.json"), JSON.stringify(json));
    assertEquals((await loadPeftConfig(folder, { registry })).peftType, "MINE");
    await assertRejects(() => loadPeftConfig(folder), UnsupportedError);
  }));

Deno.test("what is no config is refused", () =>
  inFolder(async (folder) => {
    await assertRejects(() => loadPeftConfig(folder), FileError);
    await assertRejects(() => loadPeftConfig(join(folder, "nowhere", "at all")), FileError);
    const path = join(folder, "adapter_config.json");
    for (
      const [text, type] of [
        ["{", FileError],
        ["[]", FileError],
        ["{}", ConfigError],
        ['{"peft_type": "LORA", "rnak": 3}', ConfigError],
        ['{"peft_type": "LORA", "r": "four"}', ConfigError],
        ['{"peft_type": "NOPE"}', UnsupportedError],
      ] as const
    ) {
      await Deno.writeTextFile(path, text);
      await assertRejects(() => loadPeftConfig(folder), type as typeof FileError, undefined, text);
    }
    await assertRejects(() => loadPeftConfig(path), FileError, "fromPeftJson");
    await assertRejects(() => loadPeftConfig(folder, { subfoldr: "a" } as never), ValueError);
  }));
