import { assert, assertEquals, assertLess, assertRejects, assertThrows } from "@std/assert";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { hotswapAdapter } from "../../../lib/adapters/combine/hotswap.ts";
import { addWeightedAdapter } from "../../../lib/adapters/combine/weighted-adapter.ts";
import { forward } from "../../../lib/adapters/forward.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../../lib/adapters/leaves.ts";
import { convertToLora } from "../../../lib/adapters/lora/convert-to-lora.ts";
import type { AnyModel } from "../../../lib/adapters/peft-model.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { disableAdapters, setAdapter } from "../../../lib/adapters/select.ts";
import { GraftError } from "../../../lib/errors.ts";
import {
  type LoraConfig,
  loraConfig,
  type LoraFields,
} from "../../../lib/methods/lora/lora-config.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { goldenBase } from "../../adapters/bases.ts";
import { randomized } from "../../adapters/randomized.ts";
import { testDevice } from "../../devices.ts";
import { inFolder } from "../../io/folder.ts";
import { apart } from "../../steps.ts";

const SUM = { adapters: ["default"], weights: [1], adapterName: "sum" };
const inputs = { inputIds: [[3, 1, 4, 15, 9, 26, 5]] };

async function logits(model: AnyModel): Promise<Float32Array> {
  return await toFloat32((await forward(model, inputs)).logits);
}

async function begun(fields: LoraFields) {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = loraConfig({
    r: 3,
    loraAlpha: 5,
    targetModules: ["q_proj", "up_proj"],
    ...fields,
  });
  return { base, model: getPeftModel(base, config) };
}

Deno.test("of MiCA only A is trained; combined and swapped it is a plain LoRA", async () => {
  const { base, model } = await begun({ initLoraWeights: "mica" });
  assertEquals([...trainableLeaves(model).keys()].every((name) => name.endsWith("lora_A")), true);
  assertEquals(getAdapterStateDict(model).size, 8);
  assertEquals(await logits(model), await logits(base));
  const trained = await randomized(model), want = await logits(trained);
  assert(apart(want, await logits(base)) > 1e-3);
  const combined = addWeightedAdapter(trained, SUM);
  assertEquals((combined.adapters.get("sum")!.config as LoraConfig).initLoraWeights, true);
  assertLess(apart(await logits(setAdapter(combined, "sum")), want), 2e-5);
  await inFolder(async (folder) => {
    await savePretrained(trained, folder);
    const swapped = await hotswapAdapter(model, folder);
    assertLess(apart(await logits(swapped), want), 2e-5);
  });
});

Deno.test("what LoftQ puts in the place of the base goes with the adapter", async () => {
  const { base, model } = await begun({ initLoraWeights: "loftq", loftqConfig: { loftqBits: 4 } });
  const want = await logits(model), plain = await logits(base);
  assert(apart(want, plain) > 1e-3);
  assertEquals(await logits(disableAdapters(model)), plain);
  const converted = await loadAdapter(base, await convertToLora(model, { rank: 32 }));
  assertLess(apart(await logits(converted), want), 1e-4);
  const refused: [string, () => unknown][] = [
    ["LORA_VARIANT", () => addWeightedAdapter(model, SUM)],
    [
      "LORA_VARIANT",
      () =>
        inFolder((folder) =>
          savePretrained(model, folder, { pathInitialModelForWeightConversion: true })
        ),
    ],
  ];
  for (const [code, attempt] of refused) {
    // deno-lint-ignore require-await -- what throws at once is to reject
    assertEquals((await assertRejects(async () => attempt(), GraftError)).code, code);
  }
  assertThrows(
    () => loraConfig({ initLoraWeights: "loftq", loftqConfig: {}, useDora: true }),
    GraftError,
  );
});
