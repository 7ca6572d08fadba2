/**
 * Files of BONE, as PEFT wrote them before it called the method MISS.
 *
 * @module
 */
import { assertEquals, assertThrows } from "@std/assert";
import { type AdapterLoadReport, loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { loadPeftConfig } from "../../lib/adapters/checkpoint/load-peft-config.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import { ConfigError } from "../../lib/errors.ts";
import { readJsonFile } from "../../lib/io/json.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { camelCase } from "../../lib/methods/config.ts";
import { boneConfig, type BoneFields } from "../../lib/methods/miss.ts";
import { fromPeftJson } from "../../lib/methods/peft-json.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";
import { assertLogits, batchOf, expectedOf, mergedName } from "../golden-case.ts";
import { inFolder } from "../io/folder.ts";
import { adamLosses } from "../steps.ts";

const CASES = { plain: "llama", bat: "llama", biased_layers: "qwen2" };

for (const [name, kind] of Object.entries(CASES)) {
  Deno.test(`BONE ${name}: an old file gives and learns what it did, and is saved as MISS`, async () => {
    const folder = `${golden}bone/${name}/`, expected = await expectedOf({ folder });
    const base = await goldenBase(kind, await testDevice("cpu"));
    let report: AdapterLoadReport | undefined;
    const model = await loadAdapter(base, folder, {
      isTrainable: true,
      onReport: (given) => report = given,
    });
    const { tensors } = await openSafetensors(`${folder}adapter_model.safetensors`);
    assertEquals(report!.notes.length, 1);
    assertEquals(report!.notes[0].match(/BONE.* MISS.* 0\.18\./)?.length, 1);
    const blocks = [...tensors.keys()].filter((key) => key.endsWith(".bone_block"));
    assertEquals(report!.renamed.map(({ from }) => from), blocks);

    const right = "adapted.logits";
    await assertLogits(model, expected, { right, what: name });
    const merged = mergedName(expected, right);
    await assertLogits(mergeAndUnload(model), expected, { right: merged, what: `${name} merged` });
    const { losses, optimizer } = expected.record;
    const got = await adamLosses(model, Array(3).fill(batchOf(expected)), optimizer!);
    losses!.forEach((loss, i) => assertEquals(Math.abs(got[i] - loss) / loss < 1e-5, true));

    await inFolder(async (at) => {
      await savePretrained(model, at);
      assertEquals((await readJsonFile(`${at}/adapter_config.json`)).peft_type, "MISS");
      const again = await loadAdapter(base, at, { onReport: (given) => report = given });
      assertEquals([report!.notes, report!.renamed], [[], []]);
      const saved = getAdapterStateDict(again);
      assertEquals(saved.size, tensors.size);
      for (const [key, tensor] of tensors) {
        const now = saved.get(key.replace(".bone_", ".miss_"))!;
        assertEquals(await toFloat32(now), await toFloat32(tensor), key);
      }
    });

    const { peftVersion: _, ...config } = await loadPeftConfig(folder);
    const asked = Object.fromEntries(
      Object.entries(expected.record.config!).map(([key, value]) => [camelCase(key), value]),
    );
    const own = boneConfig({ peftType: "BONE", taskType: "CAUSAL_LM", ...asked });
    const { peftVersion: __, ...made } = own;
    assertEquals(
      made,
      {
        ...config,
        inferenceMode: false,
        baseModelNameOrPath: null,
      } as unknown as typeof made,
    );
    assertEquals(
      [...getAdapterStateDict(getPeftModel(base, own)).keys()],
      [...getAdapterStateDict(model).keys()],
    );
  });
}

Deno.test("a config of BONE says what one of MISS says, or is refused", () => {
  assertEquals(boneConfig({ r: 8 }), fromPeftJson({ peft_type: "BONE", r: 8 }));
  assertEquals(boneConfig().r, 64);
  assertEquals(boneConfig({ bias: "Bone_only" }).bias, "MiSS_only");
  assertThrows(() => fromPeftJson({ peft_type: "MISS", bias: "Bone_only" }), ConfigError, "bias");
  assertThrows(() => boneConfig({ rank: 8 } as BoneFields), ConfigError, "rank");
  assertThrows(() => fromPeftJson({ peft_type: "BONES" }), Error, "BONES");
});
