/**
 * Pipelines depend on what a program does, not on how large its values are: what other lengths, batches, ranks and heads compile beside the first.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { forward } from "../../../lib/adapters/forward.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { withAdapterScale } from "../../../lib/adapters/scope.ts";
import { createWebGpuDevice, type WebGpuDevice } from "../../../lib/device/webgpu/mod.ts";
import { generate } from "../../../lib/generation/generate.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import { createModel } from "../../../lib/io/load-model.ts";
import { train } from "../../../lib/training/train.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 96,
  hidden_size: 128,
  intermediate_size: 192,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};

/** Hardware kernels on any adapter, none of them measured: what is compiled is what is run. */
const open = () => createWebGpuDevice({ software: false, tune: false });

const rows = (count: number, length: number) =>
  Array.from(
    { length: count },
    (_, r) => Array.from({ length }, (_, i) => 1 + (i * 7 + r * 3) % 90),
  );

function adapted(base: ModelGraph, r = 8) {
  return getPeftModel(
    base,
    loraConfig({ r, targetModules: "all-linear", taskType: "CAUSAL_LM", initLoraWeights: false }),
  );
}

/** Takes one training step per batch. */
async function steps(model: ReturnType<typeof adapted>, shapes: readonly [number, number][]) {
  const batches = shapes.map(([count, length]) => {
    const inputIds = rows(count, length);
    return { inputIds, labels: inputIds };
  });
  await train(model, batches, { steps: batches.length, learningRate: 1e-3 });
}

/** Pipelines that `more` compiles beside those of `first`. */
async function compiled(
  device: WebGpuDevice,
  first: () => Promise<unknown>,
  more: () => Promise<unknown>,
): Promise<{ readonly first: number; readonly more: number }> {
  const count = () => device.memory().pipelinesCreated;
  const start = count();
  await first();
  const before = count();
  await more();
  return { first: before - start, more: count() - before };
}

const LENGTHS = Array.from({ length: 25 }, (_, i) => 3 + 6 * i);

Deno.test("an epoch over 25 lengths compiles at most twice what one step does", async () => {
  using device = await open();
  const model = adapted(await createModel(CONFIG, { device }));
  const { first, more } = await compiled(
    device,
    () => steps(model, [[2, 40]]),
    () => steps(model, LENGTHS.map((length) => [2, length])),
  );
  console.log(`one step: ${first} pipelines; 25 other lengths: ${more} more`);
  assert(first > 0 && more <= first, `${first} pipelines, then ${more}`);
});

Deno.test("prompts of 25 lengths compile at most twice what one does", async () => {
  using device = await open();
  const model = await createModel(CONFIG, { device });
  const go = (length: number) => generate(model, rows(1, length)[0], { maxNewTokens: 3 });
  const { first, more } = await compiled(device, () => go(40), async () => {
    for (const length of LENGTHS) await go(length);
  });
  console.log(`one prompt: ${first} pipelines; 25 other lengths: ${more} more`);
  assert(first > 0 && more <= first, `${first} pipelines, then ${more}`);
});

Deno.test("ranks 2 to 64 compile at most twice what one does", async () => {
  using device = await open();
  const base = await createModel(CONFIG, { device });
  const { first, more } = await compiled(
    device,
    () => steps(adapted(base), [[2, 40]]),
    async () => {
      for (const r of [2, 3, 4, 6, 7, 12, 16, 24, 32, 33, 48, 64]) {
        await steps(adapted(base, r), [[
          2,
          40,
        ]]);
      }
    },
  );
  console.log(`rank 8: ${first} pipelines; 12 other ranks: ${more} more`);
  assert(first > 0 && more <= first, `${first} pipelines, then ${more}`);
});

Deno.test("forward at ten lengths and batches compiles at most twice what one does", async () => {
  using device = await open();
  const model = await createModel(CONFIG, { device });
  const go = (count: number, length: number) => forward(model, { inputIds: rows(count, length) });
  const { first, more } = await compiled(device, () => go(1, 40), async () => {
    for (let i = 1; i <= 10; i++) await go(1 + i % 3, 13 * i);
  });
  console.log(`one length: ${first} pipelines; ten others: ${more} more`);
  assert(first > 0 && more <= first, `${first} pipelines, then ${more}`);
});

Deno.test("within a class of sizes nothing is compiled", async () => {
  using device = await open();
  const model = adapted(await createModel(CONFIG, { device }));
  // Another model of other widths, depths, heads and vocabulary, all of the same divisibility.
  const other = adapted(
    await createModel({
      ...CONFIG,
      vocab_size: 120,
      hidden_size: 192,
      intermediate_size: 256,
      num_hidden_layers: 3,
      num_attention_heads: 6,
      num_key_value_heads: 3,
    }, { device }),
  );
  const { more } = await compiled(
    device,
    async () => {
      await steps(model, [[2, 40]]);
      await generate(model, rows(1, 40)[0], { maxNewTokens: 3 });
      await withAdapterScale(model, 0.5, (half) => forward(half, { inputIds: rows(2, 40) }));
    },
    async () => {
      await steps(model, [[2, 44], [2, 60], [3, 28]]);
      await generate(model, rows(1, 44)[0], { maxNewTokens: 200 });
      await withAdapterScale(model, 0.25, (half) => forward(half, { inputIds: rows(2, 52) }));
      await steps(other, [[2, 40]]);
    },
  );
  assertEquals(more, 0);
});
