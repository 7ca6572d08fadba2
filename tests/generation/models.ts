/**
 * Tiny random models for tests, and what greedy decoding has to give.
 *
 * @module
 */
import { forward } from "../../lib/adapters/forward.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { argmax } from "../../lib/generation/sampling.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/io/tokenizer.ts";
import type { ModelConfig } from "../../lib/model/architecture.ts";

/** Vocabulary of {@link byteTokenizer}. */
export const VOCABULARY = 259;

/** A llama of two layers with grouped heads. */
export const LLAMA: ModelConfig = {
  model_type: "llama",
  vocab_size: VOCABULARY,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 700,
  // Larger than usual, so that the next token depends on everything before it.
  initializer_range: 0.5,
};

/** A GPT-2 of two layers, whose positions are a table. */
export const GPT2: ModelConfig = {
  model_type: "gpt2",
  vocab_size: VOCABULARY,
  n_embd: 32,
  n_layer: 2,
  n_head: 4,
  n_positions: 90,
  initializer_range: 0.5,
};

/** One token for each byte; 256, 257 and 258 are `<bos>`, `<eos>` and `<pad>`. */
export function byteTokenizer(chatTemplate?: string): Promise<Tokenizer> {
  return loadTokenizer(byteTokenizerFiles({
    specialTokens: ["<bos>", "<eos>", "<pad>"],
    eosToken: "<eos>",
    padToken: "<pad>",
    chatTemplate,
  }));
}

/** Token ids that differ from one another for a while. */
export function sequence(length: number, start: number): number[] {
  return Array.from({ length }, (_, i) => (start + 37 * i + i * i) % 256);
}

/** For each new token of each text what one pass over the whole texts, padded on the right, has as the most probable one in its place. */
export async function greedyChoices(
  model: AnyModel,
  texts: readonly { readonly promptIds: readonly number[]; readonly tokenIds: readonly number[] }[],
): Promise<number[][]> {
  const rows = texts.map(({ promptIds, tokenIds }) => [...promptIds, ...tokenIds]);
  const length = Math.max(...rows.map((row) => row.length));
  const padded = (row: readonly number[]) => Array.from({ length }, (_, i) => row[i] ?? 0);
  const { logits } = await forward(model, {
    inputIds: rows.map(padded),
    attentionMask: rows.map((row) => padded(row.map(() => 1))),
  });
  const data = await logits.data() as Float32Array;
  const size = logits.shape[2];
  return texts.map(({ promptIds, tokenIds }, row) =>
    tokenIds.map((_, i) => {
      const at = row * length + promptIds.length - 1 + i;
      return argmax(data.subarray(at * size, (at + 1) * size));
    })
  );
}
