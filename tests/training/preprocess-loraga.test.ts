import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { ConfigError, GraftError, ValueError } from "../../lib/errors.ts";
import { loraConfig, type LoraFields } from "../../lib/methods/lora/lora-config.ts";
import { preprocessLoraga } from "../../lib/training/preprocess-loraga.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";
import { inFolder } from "../io/folder.ts";
import { apart } from "../steps.ts";

const batches = [{ inputIds: [[3, 1, 4, 15, 9, 26, 5]] }, { inputIds: [[2, 7, 18], [28, 1, 8]] }];

function gaConfig(fields: LoraFields = {}) {
  return loraConfig({
    initLoraWeights: "lora_ga",
    loraGaConfig: {},
    r: 3,
    targetModules: ["q_proj", "embed_tokens"],
    ...fields,
  });
}

Deno.test("gradients are kept in a file, serve any rank, and the adapter changes nothing at first", () =>
  inFolder(async (folder) => {
    const base = await goldenBase("llama", await testDevice("cpu"));
    const cacheFile = join(folder, "sub", "gradients.safetensors");
    const done: number[] = [];
    const measured = await preprocessLoraga(base, gaConfig(), {
      batches,
      cacheFile,
      onProgress: ({ batches }) => done.push(batches),
    });
    assertEquals(done, [1, 2]);
    const cached = await preprocessLoraga(base, gaConfig({ r: 5 }), { cacheFile });
    assertEquals([...cached.sites.keys()], [...measured.sites.keys()]);
    assertEquals(cached.init, "lora_ga");
    const logits = async (model: Parameters<typeof forward>[0]) =>
      await (await forward(model, batches[0])).logits.data() as Float32Array;
    const plain = await logits(base);
    for (const loraGaConfig of [{ direction: "random" }, { scale: "weight_svd" }] as const) {
      const model = getPeftModel(base, gaConfig({ r: 5, loraGaConfig }), { calibration: cached });
      assert(apart(await logits(model), plain) < 1e-5);
    }
    const other = await goldenBase("qwen3", await testDevice("cpu"));
    const error = await assertRejects(
      () => preprocessLoraga(other, gaConfig({ targetModules: ["k_proj"] }), { cacheFile }),
      GraftError,
      "Remove the file",
    );
    assertEquals(error.code, "CALIBRATION_FILE");
  }));

Deno.test("what LoRA-GA cannot do is refused with what to do", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const cases: [string, () => Promise<unknown>][] = [
    ["CONFIG_LORA_GA", () => preprocessLoraga(base, loraConfig(), { batches })],
    ["CONFIG_LORA_GA", () => preprocessLoraga(base, gaConfig({ loraGaConfig: null }), { batches })],
    ["CONFIG_LORA_GA_RANK", () => preprocessLoraga(base, gaConfig({ r: 17 }), { batches })],
    ["CALIBRATION_BATCHES", () => preprocessLoraga(base, gaConfig(), { batches: [] })],
    ["CALIBRATION_BATCHES", () => preprocessLoraga(base, gaConfig())],
    ["CALIBRATION_OPTION", () => preprocessLoraga(base, gaConfig(), { cacheFile: 3 } as never)],
  ];
  for (const [code, attempt] of cases) {
    const error = await assertRejects(attempt, GraftError);
    assertEquals(error.code, code, error.message);
  }
  assertThrows(() => getPeftModel(base, gaConfig()), ValueError, "preprocessLoraga(base");
  for (const loraGaConfig of [{ direction: "BrAr" }, { scale: "none" }, { stableGamma: 0 }]) {
    assertThrows(() => gaConfig({ loraGaConfig } as never), ConfigError);
  }
});
