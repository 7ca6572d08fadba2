/**
 * The kernels that suit a processor, for those whose own tests have only a software adapter: models run on them, too.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import type { Device } from "../../../lib/device/device.ts";
import { createWebGpuDevice } from "../../../lib/device/webgpu/mod.ts";
import { generate } from "../../../lib/generation/generate.ts";
import { createModel } from "../../../lib/io/load-model.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { train } from "../../../lib/training/train.ts";
import { goldenBase } from "../../adapters/bases.ts";
import { testDevice } from "../../devices.ts";
import { assertLogits, expectedOf, goldenCases } from "../../golden-case.ts";

const open = () => createWebGpuDevice({ software: true, tune: false });

Deno.test("software kernels give PEFT's logits", async () => {
  using device = await open();
  for (const kind of ["llama", "gpt2"]) {
    const golden = goldenCases.find((c) =>
      c.kind === kind && c.peftType === "LORA" && c.adapters.length === 0
    )!;
    const expected = await expectedOf(golden);
    const model = await loadAdapter(await goldenBase(kind, device), golden.folder);
    const names = { right: "adapted.logits", left: "left.adapted.logits", what: golden.name };
    await assertLogits(model, expected, names);
  }
});

Deno.test("software kernels train and generate as the CPU does", async () => {
  const inputIds = [0, 1].map((r) =>
    Array.from({ length: 90 }, (_, i) => 1 + (i * 7 + r * 3) % 90)
  );
  const run = async (device: Device) => {
    const base = await createModel({
      model_type: "llama",
      vocab_size: 96,
      hidden_size: 128,
      intermediate_size: 192,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
    }, { device, seed: 1 });
    const config = loraConfig({ r: 8, targetModules: "all-linear", taskType: "CAUSAL_LM" });
    const losses: number[] = [];
    const { model } = await train(
      getPeftModel(base, config, { seed: 2 }),
      [{ inputIds, labels: inputIds }],
      { steps: 3, learningRate: 1e-2, onStep: ({ loss }) => void losses.push(loss) },
    );
    const { tokenIds } = await generate(model, inputIds[0].slice(0, 20), { maxNewTokens: 12 });
    return { losses, tokenIds };
  };
  using device = await open();
  const software = await run(device), cpu = await run(await testDevice("cpu"));
  assertEquals(software.tokenIds, cpu.tokenIds);
  cpu.losses.forEach((loss, i) => {
    assert(Math.abs(software.losses[i] - loss) < 1e-5 * loss, `${software.losses[i]}, ${loss}`);
  });
});
