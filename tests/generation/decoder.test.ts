import { assert, assertEquals } from "@std/assert";
import { openDecoder } from "../../lib/generation/decoder.ts";
import { generate } from "../../lib/generation/generate.ts";
import { argmax } from "../../lib/generation/sampling.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { testDevice, testOnDevices } from "../devices.ts";
import { GPT2, greedyChoices, LLAMA, sequence } from "./models.ts";

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
