/**
 * Runs commands in this process, and makes what they work on.
 *
 * @module
 */
import { join } from "node:path";
import type { CliContext } from "../../lib/cli/context.ts";
import { main } from "../../lib/cli/mod.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { loadTokenizer } from "../../lib/io/tokenizer.ts";

/** What a command left behind. */
export interface CliRun {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/**
 * Runs a command; `interruptAfter` sends Ctrl-C once a message holds this text, `onMessage` is told
 * all of them.
 */
export async function cli(
  args: readonly string[],
  options: {
    readonly input?: string;
    readonly interruptAfter?: string;
    readonly onMessage?: (text: string) => void;
  } = {},
): Promise<CliRun> {
  let out = "", err = "";
  const callbacks = new Set<() => void>();
  const interrupt = (text: string) => {
    if (options.interruptAfter === undefined || !text.includes(options.interruptAfter)) return;
    for (const callback of [...callbacks]) callback();
  };
  const context: CliContext = {
    out: (text) => {
      out += text;
      interrupt(text);
    },
    err: (text) => {
      err += text;
      options.onMessage?.(text);
      interrupt(text);
    },
    terminal: false,
    columns: 80,
    piped: options.input !== undefined,
    input: () => Promise.resolve(options.input ?? ""),
    async *lines(prompt) {
      for (const line of (options.input ?? "").split("\n")) {
        err += prompt();
        yield await Promise.resolve(line);
      }
    },
    onInterrupt(callback) {
      callbacks.add(callback);
      return () => callbacks.delete(callback);
    },
  };
  return { code: await main(args, context), out, err };
}

/** A chat template that all of these tests share. */
export const TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}" +
  "{% if add_generation_prompt %}<assistant>{% endif %}";

/** Saves a tiny random llama with a byte tokenizer under `<folder>/model` and gives that path. */
export async function tinyModel(folder: string): Promise<string> {
  const model = await createModel({
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    vocab_size: 259,
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 128,
    tie_word_embeddings: true,
    initializer_range: 0.2,
  }, { device: "cpu", seed: 1 });
  using _device = model.device;
  const path = join(folder, "model");
  await saveModel(model, path, {
    tokenizer: await loadTokenizer(byteTokenizerFiles({
      specialTokens: ["<bos>", "<eos>", "<pad>"],
      eosToken: "<eos>",
      padToken: "<pad>",
      chatTemplate: TEMPLATE,
    })),
  });
  return path;
}

/** Writes JSON lines and gives their path. */
export async function jsonLines(
  folder: string,
  name: string,
  lines: readonly unknown[],
): Promise<string> {
  const path = join(folder, name);
  await Deno.writeTextFile(path, lines.map((line) => JSON.stringify(line) + "\n").join(""));
  return path;
}
