/**
 * Rows as ids and what is learned of them; the golden values are those of transformers, see
 * ../io/tokenizers.golden.py.
 */
import { assert, assertEquals } from "@std/assert";
import { promptIds } from "../../lib/generation/prompt.ts";
import { createModel } from "../../lib/io/load-model.ts";
import type { JsonObject } from "../../lib/io/json.ts";
import { createTokenizer, type Tokenizer } from "../../lib/io/tokenizer.ts";
import type { TokenizedExample } from "../../lib/training/row-rule.ts";
import { tokenizeExamples } from "../../lib/training/tokenize.ts";
import golden from "../io/tokenizers.golden.json" with { type: "json" };

const model = await createModel({
  model_type: "llama",
  vocab_size: 512,
  hidden_size: 8,
  intermediate_size: 8,
  num_hidden_layers: 1,
  num_attention_heads: 1,
}, { device: "cpu" });
const config = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" };
const mask = ({ labels }: TokenizedExample) =>
  labels.map((label) => label === -100 ? "0" : "1").join("");
const learned = (tokenizer: Tokenizer, { labels }: TokenizedExample) =>
  tokenizer.decode(labels.filter((label) => label !== -100)).trim();

for (const [kind, { tokenizer: json, chats, prompts, pairs }] of Object.entries(golden.kinds)) {
  for (const [name, template] of Object.entries(golden.templates)) {
    const tokenizer = createTokenizer({
      tokenizer: json as unknown as JsonObject,
      config: { ...config, chat_template: template },
    });
    Deno.test(`${kind}, ${name}: chats have the ids that transformers gives, and generate the same`, () => {
      golden.chats.forEach((messages, i) => {
        const [example] = tokenizeExamples([{ messages }], { tokenizer });
        const [ids, expected] = chats[name as keyof typeof chats][i] as [number[], string];
        assertEquals(example.ids, ids);
        if (/generation %}/.test(template)) assertEquals(mask(example), expected);
        const [prompt] = promptIds(model, [messages.slice(0, -1)], {
          tokenizer,
          maxPositions: Infinity,
        });
        assertEquals(prompt, prompts[name as keyof typeof prompts][i]);
      });
    });
  }
  Deno.test(`${kind}: prompts and completions are encoded as one text`, () => {
    const tokenizer = createTokenizer({ tokenizer: json as unknown as JsonObject, config });
    golden.pairs.forEach(([prompt, completion], i) => {
      const [example] = tokenizeExamples([{ prompt, completion }], { tokenizer });
      const end = tokenizer.eosId!;
      const ids = pairs[i].at(-1) === end ? pairs[i] : [...pairs[i], end];
      assertEquals(example.ids, ids);
      // A token that holds the end of the prompt too is learned.
      const spaceless = (text: string) => text.replace(/\s/g, "");
      const said = tokenizer.decode(tokenizer.encode(completion, { addSpecialTokens: false }));
      const found = spaceless(learned(tokenizer, example));
      const expected = spaceless(`${said}</s>`);
      assert(found.endsWith(expected) && found.length < expected.length + 6, found);
    });
  });
}
