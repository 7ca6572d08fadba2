import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "node:path";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { type KeyMapping, mapKeys } from "../../../lib/adapters/checkpoint/key-mapping.ts";
import { type AdapterLoadReport, loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { deleteAdapter } from "../../../lib/adapters/select.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import {
  CheckpointError,
  ConfigError,
  FileError,
  GraftError,
  ValueError,
} from "../../../lib/errors.ts";
import { openSafetensors, writeSafetensors } from "../../../lib/io/safetensors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { prefixTuningConfig } from "../../../lib/methods/prefix-tuning.ts";
import { castTensor, toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { inFolder } from "../../io/folder.ts";
import { goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";
import index from "../../golden/conversion/conversion.json" with { type: "json" };

const WEIGHTS = "adapter_model.safetensors";

async function made(r = 2): Promise<PeftModel> {
  return await randomized(getPeftModel(await goldenBase("llama"), loraConfig({ r })));
}

async function assertSame(
  a: PeftModel,
  b: PeftModel,
  names = ["default", "default"],
): Promise<void> {
  const [one, two] = [getAdapterStateDict(a, names[0]), getAdapterStateDict(b, names[1])];
  assertEquals([...two.keys()].sort(), [...one.keys()].sort());
  for (const [key, t] of one) assertEquals(await toFloat32(two.get(key)!), await toFloat32(t), key);
}

/** Writes an adapter's weights again, changed. */
async function rewrite(
  folder: string,
  change: (tensors: ReadonlyMap<string, Tensor>) => ReadonlyMap<string, Tensor>,
): Promise<void> {
  const { tensors } = await openSafetensors(join(folder, WEIGHTS));
  await writeSafetensors(join(folder, "changed"), change(tensors), { metadata: { format: "pt" } });
  await Deno.rename(join(folder, "changed"), join(folder, WEIGHTS));
}

Deno.test("keys are mapped as PEFT maps them", () => {
  for (const { mapping, from, to } of index.keys) {
    const rules = mapping as [string, string][];
    // One at a time, as two may become equal.
    for (const given of [new Map(rules), Object.fromEntries(rules)]) {
      const found = from.map((key) =>
        [...mapKeys(new Map([[key, tensor([0])]]), given).tensors.keys()][0]
      );
      assertEquals(found, to, JSON.stringify(mapping));
    }
  }
  const one = tensor([1]);
  const { tensors, renamed } = mapKeys(
    new Map([["base_model.model.a.x", one], ["base_model.b", one], ["prompt.a", one]]),
    { "^a": "c", "^b$": "d", "^base": "never" },
  );
  assertEquals([...tensors.keys()], ["base_model.model.c.x", "base_model.d", "prompt.a"]);
  assertEquals(renamed, [
    { from: "base_model.model.a.x", to: "base_model.model.c.x" },
    { from: "base_model.b", to: "base_model.d" },
  ]);
});

Deno.test("a mapping that is none, or loses a key, is an error", () => {
  const tensors = new Map(["a.q.w", "a.v.w"].map((key) => [key, tensor([1])]));
  // deno-lint-ignore no-explicit-any -- wrong types are the point
  const map = (mapping: any) => () => mapKeys(tensors, mapping as KeyMapping);
  const clash = assertThrows(map({ "[qv]": "x" }), CheckpointError, '"a.x.w"');
  assertEquals(clash.code, "KEY_MAPPING_CLASH");
  assertStringIncludes(clash.message, '"a.q.w" and "a.v.w"');
  assertThrows(map({ "(": "x" }), ConfigError, '"("');
  assertThrows(map({ q: "\\2" }), ConfigError, "no group 2");
  for (const wrong of ["q", null, [["q", "v"]], { q: 1 }, new Map([[/q/, "x"]]), 3]) {
    assertEquals(assertThrows(map(wrong), ValueError).code, "KEY_MAPPING");
  }
});

Deno.test("an adapter for modules of other names is loaded with keyMapping", () =>
  inFolder(async (folder) => {
    const model = await made();
    await savePretrained(model, folder);
    const older = (key: string) =>
      key.replace("model.model.layers.", "model.transformer.h.").replace("self_attn", "attn");
    await rewrite(folder, (tensors) => new Map([...tensors].map(([k, t]) => [older(k), t])));
    const error = await assertRejects(() => loadAdapter(model.base, folder), CheckpointError);
    assertEquals(error.code, "ADAPTER_MISMATCH");
    let report: AdapterLoadReport | undefined;
    const keyMapping = {
      [String.raw`^transformer\.h\.(\d+)\.attn`]: String.raw`model.layers.\1.self_attn`,
    };
    const onReport = (r: AdapterLoadReport) => void (report = r);
    const again = await loadAdapter(model.base, folder, { keyMapping, onReport });
    await assertSame(model, again);
    assertEquals([report!.renamed.length, report!.applied.length], [8, 8]);
    assertEquals(report!.renamed[0], {
      from: older(report!.renamed[0].to),
      to: report!.renamed[0].to,
    });
    // From memory too.
    const { tensors } = await openSafetensors(join(folder, WEIGHTS));
    const parts = { config: loraConfig({ r: 2 }), tensors };
    await assertSame(model, await loadAdapter(model.base, parts, { keyMapping }));
  }));

Deno.test("16-bit weights become f32 unless they are to keep their type", () =>
  inFolder(async (folder) => {
    const model = await made();
    for (const dtype of ["f16", "bf16"] as const) {
      await savePretrained(model, folder);
      await rewrite(folder, (t) => new Map([...t].map(([k, x]) => [k, castTensor(x, dtype)])));
      const { tensors } = await openSafetensors(join(folder, WEIGHTS));
      for (const lowMemory of [false, true]) {
        for (const autocastAdapterDtype of [undefined, true, false]) {
          const options = { autocastAdapterDtype, lowMemory, allowOtherBase: true };
          const loaded = await loadAdapter(model.base, folder, options);
          for (const [key, t] of getAdapterStateDict(loaded)) {
            assertEquals(t.dtype, autocastAdapterDtype === false ? dtype : "f32");
            assertEquals(await toFloat32(t), await toFloat32(tensors.get(key)!), key);
          }
        }
      }
    }
  }));

Deno.test("with lowMemory a weight is read when it is first used, and kept", () =>
  inFolder(async (folder) => {
    const model = await made();
    await savePretrained(model, folder);
    const loaded = await loadAdapter(model.base, folder, { lowMemory: true });
    const leaves = [...getAdapterStateDict(loaded)];
    const first = await leaves[0][1].data();
    assertEquals(leaves[0][1].where, "file");

    // Another adapter takes the file's place.
    await savePretrained(await randomized(model, 9), folder);
    assertEquals(await leaves[0][1].data(), first, "what was used is resident");
    const error = await assertRejects(() => leaves[1][1].data(), FileError);
    assertEquals(error.code, "FILE_CHANGED");
    for (const part of ['"default"', folder, "lowMemory", "Load the adapter again"]) {
      assertStringIncludes(error.message, part);
    }
    await Deno.remove(join(folder, WEIGHTS));
    const gone = await assertRejects(() => leaves[2][1].data(), FileError, "lowMemory");
    assertEquals(gone.code, "FILE_NOT_FOUND");

    // A name of its own, and the file at rest: all is as without lowMemory.
    await savePretrained(model, folder);
    const options = { lowMemory: true, adapterName: "lazy" };
    const again = await loadAdapter(model.base, folder, options);
    await savePretrained(again, join(folder, "copy"));
    await assertSame(model, again, ["default", "lazy"]);
    // Saving over its own file reads all of it first.
    const own = await loadAdapter(model.base, folder, { lowMemory: true });
    await savePretrained(own, folder);
    await assertSame(model, own);
    await assertSame(model, await loadAdapter(model.base, folder));
  }));

Deno.test("the first adapter is active, further ones wait, and isTrainable says what is trained", () =>
  inFolder(async (folder) => {
    const model = await made();
    await savePretrained(model, folder);
    const one = await loadAdapter(model.base, folder);
    assertEquals([one.active, one.trainable], [["default"], []]);
    assertEquals(one.adapters.get("default")!.config.inferenceMode, true);
    const two = await loadAdapter(one, folder, { adapterName: "b", isTrainable: true });
    assertEquals([two.active, two.trainable], [["default"], ["b"]]);
    assertEquals(two.adapters.get("b")!.config.inferenceMode, false);
    const three = await loadAdapter(addAdapter(two, "c", loraConfig()), folder, {
      adapterName: "d",
    });
    assertEquals([three.active, three.trainable], [["default"], ["b"]]);
    const empty = deleteAdapter(one, "default");
    assertEquals((await loadAdapter(empty, folder, { adapterName: "x" })).active, ["x"]);
    const trained = await loadAdapter(model.base, folder, { isTrainable: true });
    assertEquals([trained.active, trained.trainable], [["default"], ["default"]]);
    const taken = await assertRejects(() => loadAdapter(one, folder), ValueError, '"default"');
    assertEquals(taken.code, "ADAPTER_EXISTS");
    assertEquals([one.active, [...one.adapters.keys()]], [["default"], ["default"]]);
  }));

Deno.test("saved modules that a base lacks are no reason to refuse a file, of a prefix either", () =>
  inFolder(async (folder) => {
    const { base } = await made();
    for (const config of [loraConfig({ r: 2 }), prefixTuningConfig({ numVirtualTokens: 2 })]) {
      await savePretrained(getPeftModel(base, config), folder);
      const path = join(folder, "adapter_config.json");
      const json = JSON.parse(await Deno.readTextFile(path));
      await Deno.writeTextFile(path, JSON.stringify({ ...json, modules_to_save: ["score"] }));
      assertEquals((await loadAdapter(base, folder)).active, ["default"]);
    }
  }));

Deno.test("misuse of loadAdapter is told before anything is read", async () => {
  const base = await goldenBase("llama");
  // deno-lint-ignore no-explicit-any -- wrong types are the point
  const load = (options: any, source: any = "nowhere/at-all/really") =>
    loadAdapter(base, source, options);
  const cases: [string, () => Promise<unknown>, string][] = [
    ["LOAD_OPTION", () => load({ adapter_name: "x" }), "adapterName"],
    ["LOAD_OPTION", () => load({ low_memory: true }), "lowMemory"],
    ["LOAD_OPTION", () => load({ isTrainable: "yes" }), "true or false"],
    ["LOAD_OPTION", () => load({ lowMemory: 1 }), "true or false"],
    ["LOAD_OPTION", () => load({ autocastAdapterDtype: null }), "true or false"],
    ["LOAD_OPTION", () => load(null), "object"],
    ["ADAPTER_NAME", () => load({ adapterName: "a/b" }), "folder"],
    ["ADAPTER_SOURCE", () => load({}, { tensors: new Map() }), "config"],
    ["ADAPTER_SOURCE", () => load({}, null), "config"],
    ["KEY_MAPPING", () => load({ keyMapping: "q" }, { config: {}, tensors: new Map() }), "q"],
    ["FILE_NOT_FOUND", () => load({}), "nowhere"],
  ];
  for (const [code, misuse, part] of cases) {
    const error = await assertRejects(misuse, GraftError, part);
    assertEquals(error.code, code);
  }
});

Deno.test("weights of an adapter that are no finite numbers are refused", () =>
  inFolder(async (folder) => {
    const base = await goldenBase("llama"), key = "base_model.model.lm_head.lora_A.weight";
    const config = loraConfig({ r: 2, targetModules: ["lm_head"] });
    const values = new Float32Array(2 * (base.config.hidden_size as number));
    for (const [bad, dtype] of [[NaN, "f32"], [Infinity, "f16"], [-Infinity, "bf16"]] as const) {
      await savePretrained(getPeftModel(base, config), folder);
      values[5] = bad;
      const spoilt = castTensor(tensor(values, { shape: [2, values.length / 2] }), dtype);
      await rewrite(folder, (tensors) => new Map([...tensors, [key, spoilt]]));
      const error = await assertRejects(
        () => loadAdapter(base, folder),
        CheckpointError,
        `${bad} at element 5`,
      );
      assertEquals(error.code, "ADAPTER_VALUES");
      const half = () => loadAdapter(base, folder, { autocastAdapterDtype: false });
      await assertRejects(half, CheckpointError, "element 5");
      const lazy = await loadAdapter(base, folder, { lowMemory: true });
      const read = () => getAdapterStateDict(lazy).get(key)!.data();
      await assertRejects(read, CheckpointError, "element 5");
    }
    const whole = tensor(new Int32Array(values.length), { shape: [2, values.length / 2] });
    await rewrite(folder, (tensors) => new Map([...tensors, [key, whole]]));
    await assertRejects(() => loadAdapter(base, folder), CheckpointError, "of the type i32");
  }));
