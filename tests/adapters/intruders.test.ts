import { assertEquals, assertLess, assertRejects } from "@std/assert";
import { join } from "node:path";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import {
  type IntruderProgress,
  reduceIntruderDimension,
  type ReduceIntruderOptions,
} from "../../lib/adapters/lora/intruders.ts";
import { GraftError } from "../../lib/errors.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { camelCase } from "../../lib/methods/config.ts";
import { ia3Config } from "../../lib/methods/ia3.ts";
import { matrixOf, matrixProduct } from "../../lib/methods/linalg.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { testOnDevices } from "../devices.ts";
import { apart } from "../steps.ts";
import { golden, goldenBase } from "./bases.ts";
import { randomized } from "./randomized.ts";
import cases from "../golden/intruders/intruders.json" with { type: "json" };

for (const { name, kind, options, intruders } of cases) {
  testOnDevices(`${name}: what is left of an adapter is what PEFT leaves`, async (device) => {
    const base = await goldenBase(kind, device), folder = join(golden, "intruders", name);
    const { tensors } = await openSafetensors(join(folder, "expected.safetensors"));
    const old = await loadAdapter(base, folder);
    const asked: ReduceIntruderOptions = Object.fromEntries(
      Object.entries(options).map(([field, value]) => [camelCase(field), value]),
    );
    const found: IntruderProgress[] = [];
    const model = await reduceIntruderDimension(old, {
      ...asked,
      onProgress: (progress) => found.push(progress),
    });
    assertEquals(
      Object.fromEntries(found.map(({ path, intruders }) => [path, intruders])),
      intruders as unknown as Record<string, number>,
    );
    assertEquals(model.active, ["intruder_reduced"]);
    const state = getAdapterStateDict(model, "intruder_reduced");
    for (const path of Object.keys(intruders)) {
      const [b, a] = await Promise.all(
        ["lora_B", "lora_A"].map((leaf) =>
          matrixOf(state.get(`base_model.model.${path}.${leaf}.weight`)!)
        ),
      );
      const want = await toFloat32(tensors.get(`product.${path}`)!);
      assertLess(apart(Float32Array.from(matrixProduct(b, a).data), want), 1e-5, path);
    }
    const { logits } = await forward(model, { inputIds: tensors.get("input_ids")! });
    assertLess(apart(await toFloat32(logits), await toFloat32(tensors.get("logits")!)), 2e-5);
  });
}

Deno.test("embeddings and Conv1D are reduced as [out, in]; what is no plain LoRA is refused", async () => {
  const base = await goldenBase("gpt2");
  const config = loraConfig({ r: 3, targetModules: ["wte", "c_attn"] });
  const old = await randomized(getPeftModel(base, config));
  const intruders = new Map<string, number>();
  const model = await reduceIntruderDimension(old, {
    newAdapterName: "less",
    thresholdEpsilon: 0.9,
    onProgress: ({ path, intruders: n }) => intruders.set(path, n),
  });
  const [before, after] = [getAdapterStateDict(old), getAdapterStateDict(model, "less")];
  assertEquals([...after.keys()], [...before.keys()]);
  for (const [key, { shape }] of before) assertEquals(after.get(key)!.shape, shape, key);
  assertEquals([...intruders.values()].every((n) => n > 0), true, String([...intruders]));

  const refused: [string, () => Promise<unknown>][] = [
    ["INTRUDER_METHOD", () => reduceIntruderDimension(getPeftModel(base, ia3Config()))],
    [
      "INTRUDER_METHOD",
      () => reduceIntruderDimension(getPeftModel(base, loraConfig({ useDora: true }))),
    ],
    [
      "INTRUDER_METHOD",
      () => reduceIntruderDimension(getPeftModel(base, loraConfig({ initLoraWeights: "pissa" }))),
    ],
    ["ADAPTER_EXISTS", () => reduceIntruderDimension(old, { newAdapterName: "default" })],
    ["INTRUDER_OPTION", () => reduceIntruderDimension(old, { topK: 0 })],
  ];
  for (const [code, attempt] of refused) {
    assertEquals((await assertRejects(attempt, GraftError)).code, code);
  }
});
