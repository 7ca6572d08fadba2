import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join, relative } from "node:path";
import { fromPretrained } from "../../../lib/adapters/checkpoint/from-pretrained.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import type { AdapterLoadReport } from "../../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import type { Device } from "../../../lib/device/device.ts";
import { CheckpointError, FileError, GraftError, ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { loadModel } from "../../../lib/io/load-model.ts";
import { type LoraConfig, loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { codeOf, inFolder } from "../../io/folder.ts";
import { COMMIT, hubServer } from "../../io/hub-server.ts";
import { golden, goldenBase, noDevice } from "../bases.ts";
import { randomized } from "../randomized.ts";

const BASE = join(golden, "base", "llama");

/** Saves an adapter for the golden llama into a folder; gives it. */
async function saved(folder: string, source: string | null = BASE, r = 3) {
  const base = { ...await goldenBase("llama"), source };
  const model = await randomized(getPeftModel(base, loraConfig({ r, taskType: "CAUSAL_LM" })));
  await savePretrained(model, folder);
  return model;
}

async function copyFolder(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for (const { name, isFile } of Deno.readDirSync(from)) {
    if (isFile) await Deno.copyFile(join(from, name), join(to, name));
  }
}

/** Changes fields of an adapter's config. */
async function edit(folder: string, fields: Record<string, unknown>): Promise<void> {
  const path = join(folder, "adapter_config.json");
  await Deno.writeTextFile(path, JSON.stringify({ ...await readJsonFile(path), ...fields }));
}

Deno.test("an adapter brings the base that its config names", () =>
  inFolder(async (folder) => {
    const model = await saved(folder);
    let report: AdapterLoadReport | undefined;
    const found = await fromPretrained(folder, {
      device: noDevice,
      adapterName: "mine",
      isTrainable: true,
      onReport: (r) => report = r,
    });
    assertEquals([found.base.source, found.base.device], [BASE, noDevice]);
    assertEquals([found.active, found.trainable, report!.base], [["mine"], ["mine"], "same"]);
    const { base_model_name_or_path: name } = await readJsonFile(
      join(folder, "adapter_config.json"),
    );
    assertEquals(name, relative(folder, BASE), "no absolute path of this machine");
    const tensors = getAdapterStateDict(found, "mine");
    for (const [key, t] of getAdapterStateDict(model)) {
      assertEquals(await toFloat32(tensors.get(key)!), await toFloat32(t));
    }
    const cast = await fromPretrained(new URL(`file://${folder}`), {
      device: noDevice,
      dtype: "bf16",
      lowMemory: true,
    });
    assertEquals(cast.base.parameters.get("model.norm.weight")!.dtype, "bf16");
    assertEquals([...getAdapterStateDict(cast).values()][0].where, "file");
  }));

Deno.test("a base can be for another task than its config says", () =>
  inFolder(async (folder) => {
    const options = { device: noDevice, taskType: "TOKEN_CLS", numLabels: 5 } as const;
    const base = await loadModel(join(golden, "base", "bert"), options);
    const config = loraConfig({
      r: 2,
      targetModules: ["query"],
      taskType: "TOKEN_CLS",
      modulesToSave: ["classifier"],
    });
    const model = await randomized(getPeftModel(base, config));
    await savePretrained(model, folder);
    const found = await fromPretrained(folder, options);
    assertEquals(found.base.taskType, "TOKEN_CLS");
    const tensors = getAdapterStateDict(found), saved = getAdapterStateDict(model);
    assertEquals(tensors.get("base_model.model.classifier.weight")!.shape[0], 5);
    for (const [key, t] of saved) {
      assertEquals(await toFloat32(tensors.get(key)!), await toFloat32(t));
    }
  }));

Deno.test("a base is looked for from here, then from the adapter's folder", () =>
  inFolder(async (folder) => {
    const at = join(folder, "adapters", "one");
    await saved(at, "../../bases/tiny");
    await copyFolder(BASE, join(folder, "bases", "tiny"));
    const found = await fromPretrained(at, { device: noDevice });
    assertEquals(found.base.source, join(folder, "bases", "tiny"));
    const { config } = found.adapters.get("default")!;
    assertEquals(config.baseModelNameOrPath, "../../bases/tiny", "the config stays as it is");

    // What could be an id on the hub is taken from the adapter's folder where it is there.
    await edit(at, { base_model_name_or_path: "tiny" });
    await copyFolder(BASE, join(at, "tiny"));
    const options = { device: noDevice, offline: true, cacheDir: folder };
    assertEquals((await fromPretrained(at, options)).base.source, join(at, "tiny"));
    // A folder inside, and a base that is named from there.
    const inside = await fromPretrained(join(folder, "adapters"), { ...options, subfolder: "one" });
    assertEquals(inside.base.source, join(at, "tiny"));
  }));

Deno.test("an adapter and its base come from the hub, each at its own revision", () =>
  inFolder(async (cacheDir) => {
    await inFolder(async (folder) => {
      await saved(folder, "org/model");
      await edit(folder, { revision: COMMIT });
      const files: Record<string, Uint8Array> = {};
      for (const from of [BASE, folder]) {
        for (const { name, isFile } of Deno.readDirSync(from)) {
          if (isFile) files[name] = await Deno.readFile(join(from, name));
        }
      }
      // The stand-in has one repository: it is both.
      const server = hubServer(files);
      const options = { device: noDevice, cacheDir, fetch: server.fetch };
      const found = await fromPretrained("org/model", options);
      assertEquals(found.base.source, "org/model");
      const asked = server.asked.filter((path) => path.includes("/revision/"));
      assertEquals(asked, ["main", COMMIT].map((r) => `/api/models/org/model/revision/${r}`));
      const again = await fromPretrained("org/model", { ...options, offline: true });
      assertEquals([...again.adapters.keys()], ["default"]);
      server.online = false;
      const code = codeOf(fromPretrained("org/other", options));
      assertEquals(await code, "HUB_UNREACHABLE");
    });
  }));

Deno.test("a config that names no base, or one that is nowhere, is one clear error", () =>
  inFolder(async (folder) => {
    await saved(folder);
    const load = () => fromPretrained(folder, { device: noDevice });
    for (const none of [null, "", undefined, 3]) {
      await edit(folder, { base_model_name_or_path: none });
      const error = await assertRejects(load, ValueError, "names no base");
      assertEquals(error.code, "NO_BASE");
      assertStringIncludes(error.message, folder);
    }
    await edit(folder, { base_model_name_or_path: "/not/here/at all" });
    const error = await assertRejects(load, FileError, "/not/here/at all");
    assertEquals(error.code, "BASE_NOT_FOUND");
    assertStringIncludes(error.message, "loadModel");
    await edit(folder, { base_model_name_or_path: "some/where" });
    const offline = fromPretrained(folder, { device: noDevice, offline: true, cacheDir: folder });
    assertEquals(await codeOf(offline), "HUB_UNREACHABLE");

    // deno-lint-ignore no-explicit-any -- wrong types are the point
    const misuse = (source: any, options?: any) => codeOf(fromPretrained(source, options));
    assertEquals(await misuse({ config: {}, tensors: new Map() }), "ADAPTER_SOURCE");
    assertEquals(await misuse(folder, { quantize: true }), "LOAD_OPTION");
    assertEquals(await misuse(folder, { base_model: "x" }), "LOAD_OPTION");
    assertEquals(await misuse(join(folder, "no where")), "FILE_NOT_FOUND");
  }));

Deno.test("the caller's device stays open where the adapter does not fit", () =>
  inFolder(async (folder) => {
    await saved(folder);
    await edit(folder, { r: 5 });
    let disposed = 0;
    const given: Device = { ...noDevice, [Symbol.dispose]: () => void disposed++ };
    await assertRejects(() => fromPretrained(folder, { device: given }), CheckpointError, "shape");
    assertEquals(disposed, 0);
    await assertRejects(() => fromPretrained(folder, { device: "cpu" }), GraftError);
    await edit(folder, { r: 3 });
    const found = await fromPretrained(folder, { device: "cpu" });
    assertEquals((found.adapters.get("default")!.config as LoraConfig).r, 3);
    found.base.device[Symbol.dispose]();
  }));
