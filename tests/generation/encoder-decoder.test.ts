import { assert, assertEquals, assertRejects } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { ConfigError, UnsupportedError } from "../../lib/errors.ts";
import { openDecoder } from "../../lib/generation/decoder.ts";
import { generate, type Generation } from "../../lib/generation/generate.ts";
import { argmax } from "../../lib/generation/sampling.ts";
import { createModel } from "../../lib/io/load-model.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import { testOnDevices } from "../devices.ts";

const T5 = {
  model_type: "t5",
  vocab_size: 37,
  d_model: 20,
  d_kv: 6,
  d_ff: 28,
  num_layers: 1,
  num_decoder_layers: 2,
  num_heads: 3,
  relative_attention_num_buckets: 8,
  relative_attention_max_distance: 6,
  decoder_start_token_id: 2,
  // Larger than usual, so that the next token depends on everything before it.
  initializer_factor: 12,
};
const PROMPTS = [[5, 9, 30, 4, 4, 17, 8], [11, 3, 22]];

/** Scores [T, V] of one pass over a prompt and what its decoder gets. */
async function scores(
  model: ModelGraph,
  prompt: readonly number[],
  ids: readonly number[],
): Promise<Float32Array> {
  const { logits } = await forward(model, { inputIds: [prompt], decoderInputIds: [ids] });
  return await logits.data() as Float32Array;
}

testOnDevices("a decoder writes with what its encoder read", async (device) => {
  const model = await createModel(T5, { device });
  // The start, and tokens beyond the first size of the cache.
  const given = [0, 1].map((row) =>
    Array.from({ length: 67 }, (_, i) => i ? (7 * i * i + 3 * i + row) % 37 : 2)
  );
  using decoder = await openDecoder(model, PROMPTS);
  const found: Float32Array[] = [decoder.logits];
  for (let i = 1; i < 67; i++) {
    await decoder.step(Int32Array.from(given, (row) => row[i]));
    found.push(decoder.logits);
  }
  for (const [row, prompt] of PROMPTS.entries()) {
    const whole = await scores(model, prompt, given[row]);
    const largest = whole.reduce((n, x) => Math.max(n, Math.abs(x)), 0);
    whole.forEach((x, i) => {
      const y = found[Math.floor(i / 37)][row * 37 + i % 37];
      assert(Math.abs(x - y) < 2e-5 * largest, `row ${row}, ${i}: ${y}, not ${x}`);
    });
  }
});

testOnDevices(
  "generate writes the most probable tokens for prompts of any length",
  async (device) => {
    const model = await createModel(T5, { device });
    const rows = await generate(model, PROMPTS, { maxNewTokens: 5, eosTokenId: [] });
    for (const [i, { tokenIds }] of (rows as readonly Generation[]).entries()) {
      assertEquals(tokenIds.length, 5);
      const whole = await scores(model, PROMPTS[i], [2, ...tokenIds.slice(0, -1)]);
      const best = tokenIds.map((_, t) => argmax(whole.subarray(37 * t, 37 * (t + 1))));
      assertEquals(best, tokenIds);
    }
  },
);

Deno.test("a decoder needs an id to begin with, and only language models write", async () => {
  const unknown = await createModel(
    { ...T5, decoder_start_token_id: undefined },
    { device: "cpu" },
  );
  using device = unknown.device;
  await assertRejects(() => openDecoder(unknown, PROMPTS), ConfigError, "decoder_start_token_id");
  const features = await createModel(T5, { device, taskType: "FEATURE_EXTRACTION" });
  await assertRejects(() => openDecoder(features, PROMPTS), UnsupportedError, "FEATURE_EXTRACTION");
});
