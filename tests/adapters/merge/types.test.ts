import { assertEquals, assertNotEquals } from "@std/assert";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../../lib/adapters/merge/merge.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { loadModel } from "../../../lib/io/load-model.ts";
import { openSafetensors, writeSafetensors } from "../../../lib/io/safetensors.ts";
import { saveModel } from "../../../lib/io/save-model.ts";
import { tinyModel } from "../../../lib/io/tiny-model.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import { castTensor, toFloat32 } from "../../../lib/tensor/convert.ts";
import { WEIGHT_TYPES, type WeightType } from "../../../lib/tensor/dtype.ts";
import { inFolder } from "../../io/folder.ts";
import cases from "./types.golden.json" with { type: "json" };

const ofTorch = (name: string) =>
  (Object.keys(WEIGHT_TYPES) as WeightType[]).find((type) => WEIGHT_TYPES[type] === name)!;
const NAME = "model.layers.0.self_attn.q_proj.weight";

for (const { weights, norms, loaded, types, config } of cases) {
  const title = `${weights}, norms ${norms}${loaded ? `, loaded as ${loaded}` : ""}`;
  Deno.test(`a merged model is saved in one type, as by PEFT: ${title}`, async () => {
    const model = await tinyModel();
    using device = model.device;
    await inFolder(async (folder) => {
      const stored = [...model.parameters].map(([name, value]) =>
        [name, castTensor(value, ofTorch(name.includes("norm") ? norms : weights))] as const
      );
      await writeSafetensors(`${folder}/model.safetensors`, new Map(stored));
      await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(model.config));
      const dtype = loaded ? ofTorch(loaded) as "bf16" : undefined;
      const base = await loadModel(folder, { device, dtype });
      const adapted = getPeftModel(base, loraConfig({ initLoraWeights: false }));
      const saved = async (of: ModelGraph) => {
        await saveModel(of, `${folder}/merged`);
        const { tensors } = await openSafetensors(`${folder}/merged/model.safetensors`);
        const { dtype } = await readJsonFile(`${folder}/merged/config.json`);
        return [
          [...new Set([...tensors.values()].map((t) => WEIGHT_TYPES[t.dtype as "f32"]))],
          dtype,
        ];
      };
      const merged = mergeAndUnload(adapted);
      assertEquals(await saved(merged), [types, config]);
      const [before, after] = [base, merged].map(({ parameters }) => parameters.get(NAME)!);
      assertNotEquals(await toFloat32(before), await toFloat32(after));
      assertEquals(after.dtype, "f32", "until it is saved");
      // What is asked for counts for all.
      assertEquals(await saved(mergeAndUnload(adapted, { dtype: "f32" })), [
        ["float32"],
        "float32",
      ]);
      const { certificate } = await mergeAndUnload(adapted, {
        dtype: merged.dtype as "f32",
        certificate: true,
      });
      assertEquals(WEIGHT_TYPES[certificate.dtype as "f32"], config);
    });
  });
}
