import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { ValueError } from "../../lib/errors.ts";
import { openDecoder } from "../../lib/generation/decoder.ts";
import { generate } from "../../lib/generation/generate.ts";
import { createPrefixCache } from "../../lib/generation/prefix-cache.ts";
import { argmax } from "../../lib/generation/sampling.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { prefixTuningConfig } from "../../lib/methods/prefix-tuning.ts";
import { testDevice, testOnDevices } from "../devices.ts";
import { GPT2, greedyChoices, LLAMA, sequence } from "./models.ts";

const SEQ2SEQ = {
  model_type: "t5",
  vocab_size: 256,
  d_model: 20,
  d_kv: 6,
  d_ff: 28,
  num_layers: 1,
  num_heads: 3,
  decoder_start_token_id: 2,
};
const NO_END = { eosTokenId: [] } as const;

testOnDevices(
  "padded rows and a cache that grows give the tokens of one pass; a step in between creates nothing",
  async (device) => {
    const model = await createModel(LLAMA, { device, seed: 1 });
    const texts = [sequence(57, 3), sequence(23, 90), [7]]
      .map((promptIds) => ({ promptIds, tokenIds: [] as number[] }));
    using decoder = await openDecoder(model, texts.map(({ promptIds }) => promptIds));
    const ids = new Int32Array(texts.length);
    const size = decoder.logits.length / texts.length;
    const step = async () => {
      texts.forEach(({ tokenIds }, b) => {
        ids[b] = argmax(decoder.logits.subarray(b * size, (b + 1) * size));
        tokenIds.push(ids[b]);
      });
      await decoder.step(ids);
    };
    // There is room for 64 positions at first; 57 are taken.
    for (let i = 0; i < 3; i++) await step();
    const before = device.memory();
    for (let i = 0; i < 4; i++) await step();
    assertEquals(device.memory(), before);
    for (let i = 0; i < 3; i++) await step();
    assert(device.memory().buffersCreated > before.buffersCreated, "the cache has grown");
    const chosen = await greedyChoices(model, texts);
    texts.forEach(({ tokenIds }, row) => assertEquals(tokenIds, chosen[row], `row ${row}`));
    assert(new Set(chosen.flat()).size > 15, "the model says many things");
  },
);

Deno.test("gpt2: padded rows give the tokens of one pass", async () => {
  const model = await createModel(GPT2, { device: await testDevice("cpu"), seed: 1 });
  const prompts = [sequence(5, 3), sequence(23, 90), [7], sequence(12, 200)];
  const results = await generate(model, prompts, { maxNewTokens: 20, ...NO_END });
  assertEquals(results.map((r) => r.promptIds), prompts);
  assertEquals(results.map((r) => [...r.tokenIds]), await greedyChoices(model, results));
  assert(new Set(results.flatMap((r) => r.tokenIds)).size > 20, "the model says many things");
});

Deno.test("a prompt of several parts, and a text that outgrows its cache", async () => {
  const model = await createModel(LLAMA, { device: await testDevice("cpu"), seed: 2 });
  // 530 positions are two parts; the cache begins with 1024.
  const long = await generate(model, sequence(530, 11), { maxNewTokens: 5, ...NO_END });
  assertEquals([long.tokenIds], await greedyChoices(model, [long]));
  // 40 + 128 fit into 256; the rest does not.
  const short = await generate(model, [[1, 2, 3], sequence(40, 1)], {
    maxNewTokens: 240,
    ...NO_END,
  });
  assertEquals(short.map((r) => [...r.tokenIds]), await greedyChoices(model, short));
});

Deno.test("generations at the same time do not disturb each other", async () => {
  const model = await createModel(LLAMA, { device: await testDevice("cpu"), seed: 4 });
  const prompts = [sequence(5, 3), sequence(9, 50), sequence(9, 51)];
  const one = (prompt: readonly number[]) =>
    generate(model, prompt, { maxNewTokens: 12, ...NO_END });
  const together = await Promise.all(prompts.map(one));
  for (const [i, prompt] of prompts.entries()) assertEquals(together[i], await one(prompt));
});

testOnDevices("rows go on with several tokens at once, and forget some", async (device) => {
  const model = await createModel(LLAMA, { device, seed: 3 });
  const texts = [sequence(75, 3), sequence(59, 90)];
  using whole = await openDecoder(model, texts);
  // A part in one step, some of it again, and the rest one by one: the cache grows on the way.
  using decoder = await openDecoder(model, texts.map((ids) => ids.slice(0, -40)));
  const next = (from: number, to: number) =>
    Int32Array.from(texts.flatMap((ids) => ids.slice(ids.length - from, ids.length - to)));
  await decoder.step(next(40, 3));
  decoder.rewind(30);
  await decoder.step(next(33, 2));
  for (const at of [2, 1]) await decoder.step(next(at, at - 1));
  const largest = whole.logits.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  whole.logits.forEach((x, i) => assert(Math.abs(decoder.logits[i] - x) <= 2e-5 * largest));
  for (const ids of [[], [1], [1, 2, 3]]) {
    const error = await assertRejects(() => decoder.step(Int32Array.from(ids)), ValueError);
    assertEquals(error.code, "DECODER_OPTION");
  }
  for (const count of [59, -1, 0.5]) assertThrows(() => decoder.rewind(count), ValueError);
});

Deno.test("a conversation's cache gives the same text and reads only what is new", async () => {
  const device = await testDevice("cpu");
  const base = await createModel(LLAMA, { device, seed: 6 });
  const adapted = getPeftModel(
    base,
    prefixTuningConfig({ numVirtualTokens: 3, taskType: "CAUSAL_LM" }),
  );
  const seq2seq = await createModel(SEQ2SEQ, { device, seed: 6 });
  using cache = createPrefixCache();
  for (const model of [base, adapted, seq2seq]) {
    const more = { maxNewTokens: 9, ...NO_END };
    let text = sequence(11, 5);
    for (const turn of [sequence(20, 7), sequence(4, 70), sequence(70, 9)]) {
      const result = await generate(model, text, { ...more, cache });
      assertEquals(result, await generate(model, text, more));
      const [short, long] = [result.promptIds.length, cache.length];
      assert(long >= short && long <= short + 9, `${long}`);
      text = [...text, ...result.tokenIds, ...turn];
    }
    // Another beginning and two at a time take nothing of it.
    for (const prompt of [text.slice(0, 30), text.toReversed(), [text, text.slice(3)]]) {
      const result = await generate(model, prompt as number[], { ...more, cache });
      assertEquals(result, await generate(model, prompt as number[], more));
    }
  }
  const dynamic = await createModel({
    ...LLAMA,
    max_position_embeddings: 64,
    rope_scaling: {
      rope_type: "longrope",
      short_factor: [1, 1, 1, 1],
      long_factor: [4, 4, 4, 4],
      original_max_position_embeddings: 16,
    },
  }, { device, seed: 6 });
  for (const n of [10, 40]) {
    const plain = await generate(dynamic, sequence(n, 1), { maxNewTokens: 4, ...NO_END });
    const kept = await generate(dynamic, sequence(n, 1), { maxNewTokens: 4, ...NO_END, cache });
    assertEquals(kept, plain);
  }
});
