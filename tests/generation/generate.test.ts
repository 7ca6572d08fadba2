import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../lib/adapters/leaves.ts";
import { FileError, GraftError, ValueError } from "../../lib/errors.ts";
import { generate, generateStream } from "../../lib/generation/generate.ts";
import type { Prompt } from "../../lib/generation/prompt.ts";
import { argmax } from "../../lib/generation/sampling.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { polyConfig } from "../../lib/methods/poly.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { randomized } from "../adapters/randomized.ts";
import { byteTokenizer, GPT2, LLAMA, sequence, VOCABULARY } from "./models.ts";

const NO_END = { eosTokenId: [] } as const;
Deno.test("the same seed gives the same text, another seed another one, and rows draw their own", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 3 });
  using _device = model.device;
  const prompt = sequence(6, 40);
  const draw = async (seed?: number) =>
    (await generate(model, prompt, { temperature: 2, topK: 50, maxNewTokens: 16, seed, ...NO_END }))
      .tokenIds;
  assertEquals(await draw(5), await draw(5));
  assertEquals(await draw(), await draw(0));
  assertNotEquals(await draw(5), await draw(6));
  const [a, b] = await generate(model, [prompt, prompt], {
    doSample: true,
    temperature: 2,
    maxNewTokens: 16,
    ...NO_END,
  });
  assertNotEquals(a.tokenIds, b.tokenIds);
});

Deno.test("temperature 0, doSample false and top-k 1 are greedy", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 3 });
  using _device = model.device;
  const tokens = async (options: Parameters<typeof generate>[2]) =>
    (await generate(model, sequence(6, 40), { maxNewTokens: 12, ...NO_END, ...options })).tokenIds;
  const greedy = await tokens({});
  assertEquals(await tokens({ temperature: 0 }), greedy);
  assertEquals(await tokens({ temperature: 3, doSample: false }), greedy);
  assertEquals(await tokens({ topK: 1 }), greedy);
  assertNotEquals(await tokens({ temperature: 3 }), greedy);
});

Deno.test("a strong repetition penalty keeps tokens from coming back, those of the prompt included", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 4 });
  using _device = model.device;
  const prompt = sequence(10, 70);
  const { tokenIds } = await generate(model, prompt, {
    maxNewTokens: 60,
    repetitionPenalty: 1e6,
    ...NO_END,
  });
  assertEquals(new Set([...prompt, ...tokenIds]).size, 70);
});

Deno.test("end tokens end a row: of the option, the generation config, the config; other rows go on", async () => {
  const base = await createModel(LLAMA, { device: "cpu", seed: 5 });
  using _device = base.device;
  const prompts = [sequence(4, 9), sequence(9, 120)];
  const free = await generate(base, prompts, { maxNewTokens: 10, ...NO_END });
  const end = free[0].tokenIds[3];
  const before = free[0].tokenIds.slice(0, free[0].tokenIds.indexOf(end) + 1);
  assert(!free[1].tokenIds.includes(end));
  const models = [
    [base, { eosTokenId: end }],
    [base, { eosTokenId: [300, end] }],
    [{ ...base, generationConfig: { eos_token_id: [end] } }, {}],
    [{ ...base, config: { ...base.config, eos_token_id: end } }, {}],
  ] as const;
  for (const [model, options] of models) {
    const [first, second] = await generate(model, prompts, { maxNewTokens: 10, ...options });
    assertEquals(first.tokenIds, before);
    assertEquals(first.finishReason, "eos");
    assertEquals(second.tokenIds, free[1].tokenIds);
    assertEquals(second.finishReason, "length");
  }
});

Deno.test("text stops before a stop string, in a stream as well as at once", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 6 });
  using _device = model.device;
  const tokenizer = await byteTokenizer();
  const options = { tokenizer, maxNewTokens: 40, ...NO_END };
  const free = await generate(model, "abc", options);
  assertEquals(free.text, tokenizer.decode(free.tokenIds));
  const characters = [...free.text];
  const stop = characters.slice(10, 13).join("");
  const at = free.text.indexOf(stop);
  assert(at >= 0 && stop.length >= 3);
  const stopped = await generate(model, "abc", { ...options, stop });
  assertEquals(stopped.text, free.text.slice(0, at));
  assertEquals(stopped.finishReason, "stop");
  assertEquals(
    (await generate(model, "abc", { ...options, stop: ["never", stop], includeStop: true })).text,
    free.text.slice(0, at + stop.length),
  );
  const pieces: string[] = [];
  const tokens: number[] = [];
  for await (const chunk of generateStream(model, "abc", { ...options, stop })) {
    pieces.push(chunk.text);
    tokens.push(chunk.tokenId);
    assertEquals(chunk.row, 0);
  }
  assertEquals(pieces.join(""), stopped.text);
  assertEquals(tokens, stopped.tokenIds);
});

Deno.test("a stream gives each row's tokens in turn and says why each row ended", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 7 });
  using _device = model.device;
  const prompts = [[1, 2], [3, 4, 5]];
  const whole = await generate(model, prompts, { maxNewTokens: 6, ...NO_END });
  const rows: number[][] = [[], []];
  const ends: (string | null)[] = [null, null];
  for await (const chunk of generateStream(model, prompts, { maxNewTokens: 6, ...NO_END })) {
    assertEquals(ends[chunk.row], null);
    rows[chunk.row].push(chunk.tokenId);
    ends[chunk.row] = chunk.finishReason;
  }
  assertEquals(rows, whole.map((r) => [...r.tokenIds]));
  assertEquals(ends, ["length", "length"]);
});

Deno.test("prompts are text, ids or chats, and become the same tokens", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 8 });
  using _device = model.device;
  const template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}" +
    "{% if add_generation_prompt %}a:{% endif %}";
  const tokenizer = await byteTokenizer(template);
  const options = { tokenizer, maxNewTokens: 4, ...NO_END };
  const chat = [{ role: "user", content: "hi" }];
  const text = "u:hi;a:";
  const [a, b, c] = await generate(
    model,
    [chat, text, [...new TextEncoder().encode(text)]],
    options,
  );
  assertEquals(a, b);
  assertEquals(b, c);
  assertEquals(await generate(model, chat, options), a);
  const open = [...chat, { role: "assistant", content: "well" }];
  const continued = await generate(model, open, {
    ...options,
    chatTemplate: { continueFinalMessage: true },
  });
  assertEquals(tokenizer.decode(continued.promptIds), "u:hi;a:well");
  const error = await assertRejects(
    async () => generate(model, chat, { ...options, tokenizer: await byteTokenizer() }),
    ValueError,
  );
  assertEquals(error.code, "CHAT_TEMPLATE_MISSING");
});

Deno.test("a text ends at the model's last position", async () => {
  const model = await createModel(GPT2, { device: "cpu", seed: 9 });
  using _device = model.device;
  const positions = GPT2.n_positions as number;
  const result = await generate(model, sequence(positions - 3, 1), { maxNewTokens: 50, ...NO_END });
  assertEquals(result.tokenIds.length, 4);
  assertEquals(result.finishReason, "length");
  const full = await generate(model, sequence(positions, 1), { maxNewTokens: 50, ...NO_END });
  assertEquals(full.tokenIds.length, 1);
});

Deno.test("a signal stops with its reason, before and while tokens come", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 10 });
  using _device = model.device;
  const reason = new Error("enough");
  const stopped = await assertRejects(() =>
    generate(model, [1], { signal: AbortSignal.abort(reason), ...NO_END })
  );
  assertEquals(stopped, reason);
  const controller = new AbortController();
  let count = 0;
  const error = await assertRejects(async () => {
    for await (
      const _ of generateStream(model, [1], {
        maxNewTokens: 50,
        signal: controller.signal,
        ...NO_END,
      })
    ) if (++count === 3) controller.abort(reason);
  });
  assertEquals([error, count], [reason, 3]);
});

Deno.test("nothing of a generation stays on the device, also when a stream is left early", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 10 });
  using _device = model.device;
  await generate(model, [1], { maxNewTokens: 3, ...NO_END });
  const before = model.device.memory().bytes;
  for await (const _ of generateStream(model, [1], { maxNewTokens: 3, ...NO_END })) break;
  assertEquals(model.device.memory().bytes, before);
  await assertRejects(() => generate(model, [1, 999], NO_END));
  assertEquals(model.device.memory().bytes, before);
});

Deno.test("prompts and options that cannot be are refused", async () => {
  const model = await createModel(LLAMA, { device: "cpu", seed: 11 });
  using _device = model.device;
  const tokenizer = await byteTokenizer();
  const code = async (prompt: Prompt, options = {}) =>
    (await assertRejects(() => generate(model, prompt, options), ValueError)).code;
  assertEquals(await code([]), "PROMPT_EMPTY");
  assertEquals(await code("", { tokenizer }), "PROMPT_EMPTY");
  assertEquals(await code([1, VOCABULARY]), "TOKEN_ID_RANGE");
  assertEquals(await code([-1]), "TOKEN_ID_RANGE");
  assertEquals(await code([1.5]), "TOKEN_ID_RANGE");
  assertEquals(await code(sequence(701, 0)), "PROMPT_TOO_LONG");
  assertEquals(await code([1], { maxNewTokens: 0 }), "SAMPLING_OPTION");
  assertEquals(await code([1], { topP: 2 }), "SAMPLING_OPTION");
  assertEquals(await code([1], { temperature: -1 }), "SAMPLING_OPTION");
  assertEquals(await code([1], { tokenizer, stop: [""] }), "SAMPLING_OPTION");
  const missing = await assertRejects(() => generate(model, "text"), FileError);
  assertEquals(missing.code, "TOKENIZER_MISSING");
});

Deno.test("prompts bring the tasks that an adapter routes by", async () => {
  const base = await createModel(LLAMA, { device: "cpu", seed: 3 });
  using _device = base.device;
  const config = polyConfig({
    nTasks: 3,
    nSkills: 2,
    r: 2,
    targetModules: ["q_proj", "down_proj"],
  });
  // Large enough that tasks decide about tokens.
  const [start, large] = [await randomized(getPeftModel(base, config)), new Map<string, Tensor>()];
  for (const [name, leaf] of trainableLeaves(start)) {
    large.set(name, tensor((await toFloat32(leaf)).map((x) => 9 * x), { shape: leaf.shape }));
  }
  const model = withLeaves(start, large);
  const prompt = sequence(6, 40);
  const options = { maxNewTokens: 5, ...NO_END };
  const taskIds = [2, 0];
  const rows = await generate(model, [prompt, prompt], { ...options, taskIds });
  assertNotEquals(rows[0].tokenIds, rows[1].tokenIds);
  const inputIds = rows.map(({ tokenIds }) => [...prompt, ...tokenIds]);
  const { logits } = await forward(model, { inputIds, taskIds });
  const scores = await logits.data() as Float32Array;
  rows.forEach(({ tokenIds }, row) =>
    tokenIds.forEach((id, i) => {
      const at = (row * inputIds[0].length + prompt.length + i - 1) * VOCABULARY;
      assertEquals(argmax(scores.subarray(at, at + VOCABULARY)), id);
    })
  );
  for (
    const [code, on, given] of [
      ["BATCH_MISSING", model, undefined],
      ["BATCH_SHAPE", model, [1]],
      ["BATCH_VALUE", model, [3, 0]],
      ["DECODER_OPTION", base, [1, 0]],
    ] as const
  ) {
    const error = await assertRejects(
      () => generate(on, [prompt, prompt], { ...options, taskIds: given }),
      GraftError,
    );
    assertEquals(error.code, code, error.message);
  }
});
