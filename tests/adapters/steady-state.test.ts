import { assert, assertEquals } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import type { Device, DeviceMemory } from "../../lib/device/device.ts";
import { generateStream } from "../../lib/generation/generate.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { train } from "../../lib/training/train.ts";
import { testOnDevices } from "../devices.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 41,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 64,
};

const LORA = loraConfig({
  r: 2,
  loraAlpha: 6,
  initLoraWeights: false,
  targetModules: ["q_proj", "up_proj"],
  taskType: "CAUSAL_LM",
});

/** What was created so far: equal readings mean that nothing was. */
function created(device: Device): Omit<DeviceMemory, "bytes" | "buffers"> {
  const { buffersCreated, pipelinesCreated, bindGroupsCreated } = device.memory();
  return { buffersCreated, pipelinesCreated, bindGroupsCreated };
}

testOnDevices("a training step in the steady state creates nothing", async (device) => {
  const base = await createModel(CONFIG, { device, seed: 1 });
  const model = getPeftModel(base, LORA, { seed: 1 });
  const readings: unknown[] = [];
  const inputIds = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]];
  await train(model, [{ inputIds }], {
    learningRate: 1e-2,
    steps: 6,
    onStep: () => void readings.push(created(device)),
  });
  assertEquals(readings[5], readings[1]);
});

testOnDevices("a decoded token in the steady state creates nothing", async (device) => {
  const base = await createModel(CONFIG, { device, seed: 1 });
  const model = getPeftModel(base, LORA, { seed: 1 });
  const readings: unknown[] = [];
  for await (const _ of generateStream(model, [7, 8, 9], { maxNewTokens: 12, eosTokenId: [] })) {
    readings.push(created(device));
  }
  assertEquals(readings.length, 12);
  assertEquals(readings[10], readings[3]);
});

testOnDevices("a thousand times inject, run and drop hold memory constant", async (device) => {
  const base = await createModel(CONFIG, { device, seed: 1 });
  const outputs = new Set<number>();
  const bytes: number[] = [];
  for (let i = 0; i < 1000; i++) {
    const model = getPeftModel(base, LORA, { seed: i });
    const { logits } = await forward(model, { inputIds: [[1, 2, 3]] });
    outputs.add((await logits.data())[7] as number);
    if (i === 9 || i === 999) bytes.push(device.memory().bytes);
  }
  assert(outputs.size > 990, "each adapter gives outputs of its own");
  assertEquals(bytes[1], bytes[0]);
});
