/**
 * What variants of LoRA do beside what the golden cases of PEFT show.
 *
 * @module
 */
import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { forward } from "../../../lib/adapters/forward.ts";
import type { AnyModel, PeftModel } from "../../../lib/adapters/peft-model.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { addWeightedAdapter } from "../../../lib/adapters/combine/weighted-adapter.ts";
import { ConfigError, UnsupportedError } from "../../../lib/errors.ts";
import { loraConfig, type LoraFields } from "../../../lib/methods/lora/lora-config.ts";
import { digamma, logGamma } from "../../../lib/ops/functions.ts";
import { input } from "../../../lib/ops/input.ts";
import { trace } from "../../../lib/program/program.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";
import { train } from "../../../lib/training/train.ts";
import { goldenBase } from "../../adapters/bases.ts";
import { randomized } from "../../adapters/randomized.ts";
import { inFolder } from "../../io/folder.ts";
import { testOnceOnWebGpu } from "../../devices.ts";
import { generate } from "../../../lib/generation/generate.ts";
import { createPrefixCache } from "../../../lib/generation/prefix-cache.ts";

const BATCH = { inputIds: [[5, 41, 3, 60, 7, 22], [9, 9, 12, 0, 33, 1]] };
const LABELLED = { ...BATCH, labels: BATCH.inputIds };

testOnceOnWebGpu("ln Γ and its derivative", async (device) => {
  const x = Float32Array.of(0.1, 0.5, 1, 2, 4.5, 30);
  const program = trace((graph) => {
    const value = input(graph, "x", { shape: [x.length], dtype: "f32" });
    return { logGamma: logGamma(value), digamma: digamma(value) };
  });
  const executable = await device.compile(program);
  const found = await executable.run({ x: tensor(x) });
  const wanted = {
    logGamma: [2.252713, 0.572365, 0, 0, 2.453737, 71.257039],
    digamma: [-10.423755, -1.963510, -0.577216, 0.422784, 1.388871, 3.384438],
  };
  for (const [name, values] of Object.entries(wanted)) {
    const got = await toFloat32(found[name]);
    values.forEach((want, i) => assertAlmostEquals(got[i], want, 1e-5 * Math.max(1, want), name));
  }
});

testOnceOnWebGpu("MonteCLoRA draws in training, and loses", async (device) => {
  const base = await goldenBase("llama", device);
  const model = getPeftModel(
    base,
    loraConfig({
      r: 3,
      targetModules: ["q_proj", "v_proj"],
      montecloraConfig: { numSamples: 4, sampleScaler: 0.1, bufferSize: 1 },
    }),
  );
  const options = { learningRate: 2e-2, steps: 8 };
  const { history, model: trained } = await train(model, [LABELLED], options);
  assert(history[7].loss < history[0].loss);
  const again = await train(model, [LABELLED], options);
  assertEquals(again.history, history);
  const other = await train(model, [LABELLED], { ...options, seed: 5 });
  assert(other.history[7].loss !== history[7].loss);
  const key = "base_model.model.model.layers.0.self_attn.q_proj.lora_monteclora_sampler.";
  const weights = await toFloat32(getAdapterStateDict(trained).get(`${key}expert_weights`)!);
  assertAlmostEquals(weights.reduce((a, b) => a + b), 1, 1e-6);
  assert(new Set(weights).size > 1);
});

testOnceOnWebGpu(
  "VeLoRA's direction is that of the first batch, where a run goes on too",
  async (device) => {
    const base = await goldenBase("llama", device);
    const model = getPeftModel(
      base,
      loraConfig({
        r: 3,
        targetModules: ["o_proj"],
        veloraConfig: { numGroups: 4, initType: "batch_average_once" },
      }),
    );
    const rows = [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33], [8, 1, 2, 51, 4], [30, 3, 17, 9, 9]];
    const data = rows.map((row) => ({ inputIds: [row], labels: [row] }));
    const options = { learningRate: 1e-2, gradientAccumulation: 2 };
    const directionOf = async (of: AnyModel) =>
      await toFloat32(
        getAdapterStateDict(of as PeftModel).get(
          "base_model.model.model.layers.0.self_attn.o_proj.lora_velora_embed",
        )!,
      );
    assertEquals(new Set(await directionOf(model)), new Set([0]));
    await inFolder(async (folder) => {
      const whole = await train(model, data, { ...options, steps: 2 });
      const checkpoint = { folder, every: 1 };
      const begun = await train(model, data, { ...options, steps: 1, checkpoint });
      const again = await train(model, data, { ...options, steps: 2, resume: begun.checkpoint });
      assertEquals(again.history, whole.history);
      const direction = await directionOf(whole.model);
      assertAlmostEquals(Math.hypot(...direction), 1, 1e-6);
      for (const { model } of [begun, again]) assertEquals(await directionOf(model), direction);
    });
  },
);

testOnceOnWebGpu(
  "a text is written as repeated passes do, on from the invocation",
  async (device) => {
    const base = await goldenBase("llama", device);
    const targetModules = ["q_proj", "k_proj", "v_proj", "down_proj"];
    const aloraInvocationTokens = [41, 3];
    const config = loraConfig({
      r: 4,
      targetModules,
      taskType: "CAUSAL_LM",
      aloraInvocationTokens,
    });
    const model = await randomized(getPeftModel(base, config));
    const prompts = [[5, 41, 3, 60], [41, 3, 9, 41, 3, 12, 8], [41, 7, 3]];
    using cache = createPrefixCache();
    const together = await generate(model, prompts, { maxNewTokens: 5, eosTokenId: [] });
    for (const [row, prompt] of prompts.entries()) {
      const alone = await generate(model, prompt, { maxNewTokens: 5, eosTokenId: [], cache });
      assertEquals(together[row].tokenIds, alone.tokenIds);
      const ids = [...prompt];
      for (const next of alone.tokenIds) {
        const { logits } = await forward(model, { inputIds: [ids] });
        const values = (await toFloat32(logits)).slice(-logits.shape[2]);
        assertEquals(next, values.indexOf(Math.max(...values)));
        ids.push(next);
      }
    }
    // What comes before it is the base's, and so is a text without it.
    const [inside, outside] = [[9, 12, 41, 3, 7], [9, 12, 41, 7, 3]];
    const logitsOf = async (model: AnyModel, ids: number[]) =>
      await toFloat32((await forward(model, { inputIds: [ids] })).logits);
    const [on, plain] = [await logitsOf(model, inside), await logitsOf(base, inside)];
    const size = on.length / inside.length;
    assertEquals(on.slice(0, 2 * size), plain.slice(0, 2 * size));
    assert(on.slice(2 * size).every((x, i) => x !== plain[2 * size + i]));
    assertEquals(await logitsOf(model, outside), await logitsOf(base, outside));
    const packed = { inputIds: [inside], segments: [[1, 1, 2, 2, 2]], labels: [inside] };
    await assertRejects(() => train(model, [packed], { learningRate: 1 }), UnsupportedError);
  },
);

Deno.test("variants exclude one another, and their factors stand for no others", async () => {
  const base = await goldenBase("llama");
  const both: readonly LoraFields[] = [
    { useDora: true, kasaConfig: {} },
    { useBdlora: { targetModulesBdA: ["q_proj"] }, initLoraWeights: "pissa" },
    { veloraConfig: {}, targetParameters: ["q_proj.weight"] },
  ];
  for (const fields of both) assertThrows(() => loraConfig(fields), ConfigError);
  const model = getPeftModel(base, loraConfig({ r: 2, targetModules: ["q_proj"], kasaConfig: {} }));
  assertThrows(
    () => addWeightedAdapter(model, { adapters: ["default"], weights: [2], adapterName: "sum" }),
    UnsupportedError,
    "kasaConfig",
  );
});
