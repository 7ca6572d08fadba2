import { assertEquals, assertThrows } from "@std/assert";
import { FileError } from "../../lib/errors.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { SPELL_BYTES, splitBy } from "../../lib/io/pre-tokenizer.ts";
import { createTokenizer } from "../../lib/io/tokenizer.ts";
import type { JsonObject } from "../../lib/io/json.ts";

const { tokenizer } = byteTokenizerFiles({ specialTokens: ["</s>"] });
const model = tokenizer.model as JsonObject & { readonly vocab: Readonly<Record<string, unknown>> };
const create = (change: JsonObject) =>
  createTokenizer({ tokenizer: { ...tokenizer, ...change }, config: {} });
const vocab = (change: JsonObject) => ({
  model: { ...model, vocab: { ...model.vocab, ...change } },
});
const byTemplate = (single: unknown) => ({
  post_processor: { type: "TemplateProcessing", single, pair: [], special_tokens: {} },
});

Deno.test("parts of a tokenizer.json that are of another form are refused by name", () => {
  const cases: [JsonObject, string][] = [
    [vocab({ a: "7" }), "model.vocab"],
    [vocab({ a: 1.5 }), "model.vocab"],
    [vocab({ a: -1 }), "model.vocab"],
    [vocab({ a: 1e9 }), "1000000000"],
    [{ model: { ...model, vocab: [] } }, "model.vocab"],
    [{ model: { ...model, merges: [["a"]] } }, "model.merges"],
    [{ model: { ...model, merges: ["ab"] } }, "model.merges"],
    [{ model: { type: "Unigram", vocab: [["a", "0"]] } }, "model.vocab"],
    [{ model: { type: "Unigram", vocab: [["a", 0]], unk_id: 1 } }, "unk_id"],
    [{ added_tokens: [{ id: 1e9, content: "x" }] }, "1000000000"],
    [{ added_tokens: [{ id: 1, content: 5 }] }, "added_tokens.0.content"],
    [{ added_tokens: [{ id: 1, content: "x".repeat(1e5) }] }, "added_tokens.0.content"],
    [{ normalizer: { type: "Sequence" } }, "normalizer.normalizers"],
    [{ pre_tokenizer: { type: "FixedLength", length: 0 } }, "pre_tokenizer.length"],
    [{ decoder: { type: "Sequence", decoders: [{ type: 1 }] } }, "decoder.decoders.0.type"],
    [byTemplate({}), "post_processor.single"],
    [byTemplate([{ SpecialToken: { id: 5 } }]), "post_processor.single"],
  ];
  for (const [change, part] of cases) {
    const error = assertThrows(() => create(change), FileError, part);
    assertEquals(error.code, "TOKENIZER_INVALID");
  }
});

Deno.test("tokens can be called what every object has", () => {
  const own = JSON.parse('{"constructor":257,"__proto__":258,"toString":259}');
  const t = create({
    model: { ...model, vocab: Object.assign(Object.create(null), model.vocab, own) },
  });
  for (const token of ["constructor", "toString"]) assertEquals(t.tokenToId(token), own[token]);
  assertEquals(t.decode(t.encode("constructor __proto__")), "constructor __proto__");
});

/** Patterns as tokenizers of models have them: GPT-4, Llama 3, o200k, Qwen, DeepSeek, T5, BLOOM. */
const REAL = [
  String
    .raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  String
    .raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  String
    .raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
  String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`,
  String.raw`\d{1,3}(?=(?:\d{3})*\b)`,
  "(?<=\\p{L})\\p{N}+|\\w+|[^\\w\\s]+",
  " {2,}",
  "\\s+$",
];

Deno.test("patterns of real tokenizers are taken; those that may never end are refused", () => {
  const by = (pattern: string) =>
    create({ pre_tokenizer: { type: "Sequence", pretokenizers: [splitBy(pattern), SPELL_BYTES] } });
  const text = "Hello  world's 12345 ÜBER\n\n x(y)";
  for (const pattern of REAL) {
    const t = by(pattern);
    assertEquals(t.decode(t.encode(text)), text, pattern);
  }
  for (const pattern of ["(a+)+$", "(.*)*x", "(a|a)*$", String.raw`[\s\S]*[\s\S]*[\s\S]*x`]) {
    const error = assertThrows(() => by(pattern), FileError, "loops in loops");
    assertEquals(error.code, "TOKENIZER_INVALID");
    for (const [name, list] of [["normalizer", "normalizers"], ["decoder", "decoders"]]) {
      const replace = { type: "Replace", pattern: { Regex: pattern }, content: "" };
      assertThrows(() => create({ [name]: { type: "Sequence", [list]: [replace] } }), FileError);
    }
  }
});
