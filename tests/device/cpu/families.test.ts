/**
 * Programs of other lengths share a session, and compute what they would with one of their own.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { forward } from "../../../lib/adapters/forward.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { createCpuDevice } from "../../../lib/device/cpu/mod.ts";
import type { Device } from "../../../lib/device/device.ts";
import { generate } from "../../../lib/generation/generate.ts";
import { createModel } from "../../../lib/io/load-model.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { computeGradients } from "../../../lib/training/gradients.ts";
import { train } from "../../../lib/training/train.ts";

async function adapted(device: Device): Promise<PeftModel> {
  const base = await createModel({
    model_type: "llama",
    vocab_size: 96,
    hidden_size: 60,
    intermediate_size: 84,
    num_hidden_layers: 2,
    num_attention_heads: 6,
    num_key_value_heads: 3,
    tie_word_embeddings: true,
  }, { device, seed: 4 });
  const config = { r: 5, targetModules: "all-linear", taskType: "CAUSAL_LM" } as const;
  return getPeftModel(base, loraConfig({ ...config, loraDropout: 0.1, initLoraWeights: false }), {
    seed: 2,
  });
}

const rows = (count: number, length: number) =>
  Array.from(
    { length: count },
    (_, r) => Array.from({ length }, (_, i) => 1 + (i * 7 + r * 3) % 90),
  );

const LENGTHS = Array.from({ length: 20 }, (_, i) => 13 + 7 * i);

Deno.test("forward passes of twenty lengths share two sessions, with the same logits", async () => {
  using device = await createCpuDevice();
  const model = await adapted(device);
  for (const length of LENGTHS) {
    const inputIds = rows(2, length);
    const { logits } = await forward(model, { inputIds });
    using fresh = await createCpuDevice();
    const alone = await forward(await adapted(fresh), { inputIds });
    assertEquals(await logits.data(), await alone.logits.data());
  }
  assertEquals(device.memory().pipelinesCreated, 2);
});

Deno.test("gradients of other lengths are those of a session of their own", async () => {
  using device = await createCpuDevice();
  const model = await adapted(device);
  for (const length of [13, 20, 34, 41]) {
    const batch = { inputIds: rows(2, length), labels: rows(2, length) };
    const { gradients } = await computeGradients(model, batch);
    using fresh = await createCpuDevice();
    const alone = await computeGradients(await adapted(fresh), batch);
    for (const [name, gradient] of gradients) {
      assertEquals(await gradient.data(), await alone.gradients.get(name)!.data());
    }
  }
});

Deno.test("an epoch over twenty lengths with dropout opens few sessions", async () => {
  using device = await createCpuDevice();
  const losses: number[] = [];
  await train(
    await adapted(device),
    LENGTHS.map((length) => ({ inputIds: rows(2, length), labels: rows(2, length) })),
    { steps: LENGTHS.length, learningRate: 1e-3, onStep: ({ loss }) => void losses.push(loss) },
  );
  const { pipelinesCreated: sessions } = device.memory();
  console.log(`${LENGTHS.length} lengths: ${sessions} sessions`);
  // Here and there a length is a size that the model has, and their constants are one.
  assert(sessions <= 5, `${sessions} sessions`);
  assert(losses.every((loss) => loss > 3 && loss < 7), losses.join());
});

Deno.test("a growing cache opens no session beyond the second capacity", async () => {
  using device = await createCpuDevice();
  const model = await adapted(device);
  const sessions = async (tokens: number) => {
    await generate(model, rows(1, 9)[0], { maxNewTokens: tokens, eosTokenId: [] });
    return device.memory().pipelinesCreated;
  };
  await sessions(40);
  const second = await sessions(100);
  assert(await sessions(500) <= second + 1, `${second} sessions for two capacities`);
});
