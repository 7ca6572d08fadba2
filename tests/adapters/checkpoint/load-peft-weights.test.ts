import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadPeftWeights } from "../../../lib/adapters/checkpoint/load-peft-weights.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../../lib/adapters/checkpoint/state-dict.ts";
import { CheckpointError, FileError, ValueError } from "../../../lib/errors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { inFolder } from "../../io/folder.ts";
import { hubServer } from "../../io/hub-server.ts";
import { golden, goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";

async function made() {
  return await randomized(getPeftModel(await goldenBase("llama"), loraConfig({ r: 3 })));
}

Deno.test("what was saved, from a folder or from the hub", () =>
  inFolder(async (folder) => {
    const model = await made();
    await savePretrained(model, folder);
    const read = (name: string) => Deno.readFile(join(folder, name));
    const server = hubServer({
      "adapter_config.json": await read("adapter_config.json"),
      "adapter_model.safetensors": await read("adapter_model.safetensors"),
    });
    const hub = { cacheDir: join(folder, "cache"), fetch: server.fetch };
    const wanted = getAdapterStateDict(model);
    for (
      const tensors of [
        await loadPeftWeights(folder),
        await loadPeftWeights(new URL(`file://${folder}`)),
        await loadPeftWeights("org/model", hub),
      ]
    ) {
      assertEquals([...tensors.keys()].sort(), [...wanted.keys()].sort());
      for (const [key, t] of wanted) {
        assertEquals(await toFloat32(tensors.get(key)!), await toFloat32(t), key);
      }
    }
    const other = getPeftModel(await goldenBase("llama"), loraConfig({ r: 3 }));
    const { model: set } = await setAdapterStateDict(other, await loadPeftWeights(folder));
    for (const [key, t] of getAdapterStateDict(set)) {
      assertEquals(await toFloat32(t), await toFloat32(wanted.get(key)!), key);
    }
  }));

Deno.test("types are the file's, and subfolders hold other adapters", async () => {
  const half = await loadPeftWeights(`${golden}lora/half_file`);
  assertEquals(new Set([...half.values()].map(({ dtype }) => dtype)), new Set(["bf16"]));
  const folder = `${golden}lora/two_adapters`;
  const [one, two] = [
    await loadPeftWeights(folder, { subfolder: "style" }),
    await loadPeftWeights(folder, { subfolder: "facts" }),
  ];
  const shapes = (tensors: typeof one) => [...tensors].map(([key, { shape }]) => `${key} ${shape}`);
  assertEquals(shapes(one).join() === shapes(two).join(), false);
});

Deno.test("keys are mapped", () =>
  inFolder(async (folder) => {
    await savePretrained(await made(), folder);
    const plain = [...(await loadPeftWeights(folder)).keys()];
    const mapped = await loadPeftWeights(folder, {
      keyMapping: { "^model\\.layers\\.(\\d+)": "decoder.block.\\1" },
    });
    assertEquals(
      [...mapped.keys()],
      plain.map((key) => key.replace(/\.model\.layers\.(\d+)/, ".decoder.block.$1")),
    );
    await assertRejects(
      () => loadPeftWeights(folder, { keyMapping: { "layers\\.\\d+": "layers.0" } }),
      CheckpointError,
    );
  }));

Deno.test("what is not there is refused", () =>
  inFolder(async (folder) => {
    await assertRejects(() => loadPeftWeights(folder), FileError);
    await savePretrained(await made(), folder);
    await assertRejects(() => loadPeftWeights(folder, { subfolder: "style" }), FileError);
    await assertRejects(() => loadPeftWeights(folder, { adapterName: "a" } as never), ValueError);
    await assertRejects(() => loadPeftWeights(folder, { keyMapping: "a" as never }), ValueError);
    const weights = join(folder, "adapter_model.safetensors");
    await Deno.rename(weights, join(folder, "adapter_model.bin"));
    await assertRejects(() => loadPeftWeights(folder), FileError, "pickle");
  }));
