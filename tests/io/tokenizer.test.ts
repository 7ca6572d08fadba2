import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { FileError, UnsupportedError, ValueError } from "../../lib/errors.ts";
import { byteAlphabet } from "../../lib/io/byte-alphabet.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { ggufTokenizerFiles } from "../../lib/io/gguf-tokenizer.ts";
import type { GgufValue } from "../../lib/io/gguf-reader.ts";
import { createTokenizer, loadTokenizer } from "../../lib/io/tokenizer.ts";
import { addedToken } from "../../lib/io/tokenizer-json.ts";
import { codeOf, inFolder } from "./folder.ts";
import { LLAMA, llamaTensors, type Meta, writeGguf } from "./gguf-writer.ts";

const NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, BYTE = 6;

/** A byte-level BPE: two control tokens, a user's token, the 256 bytes from id 3 on, and merges. */
function bpe(merges: readonly string[], more: Record<string, Meta> = {}): Record<string, Meta> {
  const tokens = [
    "<|start|>",
    "<|end|>",
    "<tool>",
    ...byteAlphabet(),
    ...merges.map((merge) => merge.replace(" ", "")),
  ];
  return {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": tokens.map((_, id) => id < 2 ? CONTROL : id === 2 ? USER : NORMAL),
    "tokenizer.ggml.merges": merges,
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 1,
    ...more,
  };
}

const MERGES = ["h e", "l l", "he ll", "Ġ Ġ", "1 2", "Ġ hell", "Ð ¹", "12 3"];
const first = 3 + 256;

const create = (metadata: Record<string, Meta>) =>
  createTokenizer(
    ggufTokenizerFiles(new Map(Object.entries(metadata) as [string, GgufValue][]), {
      name: "a.gguf",
    }),
  );

Deno.test("a byte-level BPE from a GGUF file's metadata encodes and decodes", () => {
  const t = create(bpe(MERGES));
  const spell = (text: string) => t.encode(text).map((id) => t.idToToken(id));
  assertEquals(spell("hello"), ["hell", "o"]);
  assertEquals(t.encode("hello"), [first + 2, 3 + 111]);
  assertEquals(spell("x hell"), ["x", "Ġhell"]);
  // "smollm" splits digits before it merges.
  assertEquals(spell("123"), ["1", "2", "3"]);
  assertEquals(spell("<|start|>he<tool>he<|end|>"), ["<|start|>", "he", "<tool>", "he", "<|end|>"]);
  assertEquals([t.bosId, t.eosId, t.padId, t.unkId], [0, 1, 1, undefined]);
  assertEquals(t.vocabSize, first + MERGES.length);
  for (const text of ["héllo\n  wörld\t", "日本語 👋🏽", "a\u00a0b\ufeffc", "٣٤²", ""]) {
    assertEquals(t.decode(t.encode(text)), text);
  }
});

Deno.test("tokenizer.ggml.pre decides how text is split", () => {
  const spell = (pre: string, text: string) => {
    const t = create(
      bpe(MERGES, { "tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": false }),
    );
    return t.encode(text).map((id) => t.idToToken(id)).join("|");
  };
  assertEquals(spell("smollm", "123٣"), "1|2|3|Ù|£");
  assertEquals(spell("default", "1234"), "123|4");
  assertEquals(spell("llama-bpe", "1234"), "123|4");
  assertEquals(spell("llama-bpe", "4123"), "4|12|3");
  assertEquals(spell("qwen2", "123"), "1|2|3");
  // Qwen composes characters first: и and a breve are й.
  assertEquals(spell("qwen2", "и\u0306"), "Ð¹");
  assertEquals(spell("default", "и\u0306"), "Ð|¸|Ì|Ĩ");
  assertThrows(() => spell("unheard-of", "a"), UnsupportedError, `"unheard-of"`);
});

Deno.test("a beginning-of-text token is put where the file says, or where its kind always has it", () => {
  const ids = (more: Record<string, Meta>) => create(bpe(MERGES, more)).encode("he");
  assertEquals(ids({}), [first]);
  assertEquals(ids({ "tokenizer.ggml.add_bos_token": true }), [0, first]);
  assertEquals(
    ids({ "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": true }),
    [0, first, 1],
  );
  assertEquals(ids({ "tokenizer.ggml.pre": "llama-bpe" }), [0, first]);
  const t = create(bpe(MERGES, { "tokenizer.ggml.add_bos_token": true }));
  assertEquals(t.encode("he", { addSpecialTokens: false }), [first]);
  assertEquals([t.encode(""), t.encode("", { addSpecialTokens: false })], [[0], []]);
});

Deno.test("special tokens can be left out of the text; users' tokens stay", () => {
  const t = create(bpe(MERGES));
  const ids = t.encode("<|start|>he<tool>y<|end|>");
  assertEquals(t.decode(ids), "<|start|>he<tool>y<|end|>");
  assertEquals(t.decode(ids, { skipSpecialTokens: true }), "he<tool>y");
  assertEquals([...t.specialIds], [0, 1]);
  assertEquals(t.decode([0, 1], { skipSpecialTokens: true }), "");
});

Deno.test("ids beyond the vocabulary give nothing, what is no id is refused", () => {
  const t = create(bpe(MERGES));
  assertEquals(t.decode([first, 100_000, first]), "hehe");
  for (const id of [-1, 1.5, NaN]) {
    assertThrows(() => t.decode([id]), ValueError, String(id));
  }
});

/** A SentencePiece vocabulary: pieces with scores by rank, and all bytes. */
function pieces(list: readonly string[], more: Record<string, Meta> = {}): Record<string, Meta> {
  const bytes = Array.from(
    { length: 256 },
    (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...list];
  return {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.scores": tokens.map((_, id) => id < 259 ? 0 : -(id - 259) - 0.5),
    "tokenizer.ggml.token_type": tokens.map((_, id) =>
      id === 0 ? UNKNOWN : id < 3 ? CONTROL : id < 259 ? BYTE : NORMAL
    ),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    ...more,
  };
}

Deno.test("a SentencePiece vocabulary merges by score and falls back to bytes", () => {
  // The order is that of the scores: "ab" forms before "bc", and "▁ab" before "▁▁".
  const t = create(pieces(["ab", "bc", "▁ab", "▁▁", "abcd", "cd", "▁", "a", "b", "c", "d"]));
  const spell = (text: string) =>
    t.encode(text, { addSpecialTokens: false }).map((id) => t.idToToken(id));
  assertEquals(spell("abc"), ["▁ab", "c"]);
  assertEquals(spell("bcd"), ["▁", "bc", "d"]);
  assertEquals(spell(" abcd"), ["▁", "▁ab", "cd"]);
  assertEquals(spell(" c"), ["▁▁", "c"]);
  assertEquals(spell("aé\n"), ["▁", "a", "<0xC3>", "<0xA9>", "<0x0A>"]);
  assertEquals(t.encode("ab")[0], 1, "begins with <s>");
  for (const text of ["abc d", "  ab ", "é日本👋\n"]) {
    assertEquals(t.decode(t.encode(text), { skipSpecialTokens: true }), text);
  }
  const bare = create(pieces(["ab", "▁", "a", "b"], { "tokenizer.ggml.add_space_prefix": false }));
  assertEquals(bare.encode("ab", { addSpecialTokens: false }), [259]);
  assertEquals(bare.decode([260, 259]), " ab");
});

Deno.test("metadata without a usable tokenizer are refused", () => {
  const code = (metadata: Record<string, Meta>) => {
    try {
      create(metadata);
    } catch (error) {
      return (error as FileError).code;
    }
  };
  assertEquals(code({}), "TOKENIZER_MISSING");
  assertEquals(code({ ...bpe([]), "tokenizer.ggml.model": "bert" }), "TOKENIZER_KIND");
  assertEquals(code({ ...bpe(MERGES), "tokenizer.ggml.token_type": [1, 1] }), "TOKENIZER_INVALID");
  const { "tokenizer.ggml.merges": _, ...less } = bpe(MERGES);
  assertEquals(code(less), "TOKENIZER_INVALID");
});

Deno.test("chat templates come from the metadata, named ones too", () => {
  const one = create(bpe(MERGES, { "tokenizer.chat_template": "T" }));
  assertEquals([one.chatTemplate, one.chatTemplates], ["T", { default: "T" }]);
  const two = create(
    bpe(MERGES, { "tokenizer.chat_template": "T", "tokenizer.chat_template.tool_use": "U" }),
  );
  assertEquals(two.chatTemplates, { default: "T", tool_use: "U" });
  assertEquals(create(bpe(MERGES)).chatTemplate, undefined);
});

Deno.test("a tokenizer is loaded from a GGUF file, a folder or tokenizer.json", () =>
  inFolder(async (folder) => {
    const gguf = join(folder, "a.gguf");
    const metadata = bpe(MERGES, { "tokenizer.chat_template": "from gguf" });
    await Deno.writeFile(gguf, writeGguf({ ...LLAMA, ...metadata }, llamaTensors()));
    const a = await loadTokenizer(gguf);
    assertEquals([a.encode("hello"), a.chatTemplate], [[first + 2, 114], "from gguf"]);

    const json = join(folder, "tokenizer.json");
    const { tokenizer, config } = a.files;
    await Deno.writeTextFile(json, JSON.stringify(tokenizer));
    await Deno.writeTextFile(
      join(folder, "tokenizer_config.json"),
      JSON.stringify({ ...config, eos_token: { content: "<|end|>", special: true } }),
    );
    for (const source of [folder, json, new URL(`file://${json}`)]) {
      const b = await loadTokenizer(source);
      assertEquals([b.encode("hello"), b.eosId, b.chatTemplate], [
        [first + 2, 114],
        1,
        "from gguf",
      ]);
    }
    await Deno.writeTextFile(join(folder, "chat_template.jinja"), "from its own file");
    assertEquals((await loadTokenizer(folder)).chatTemplate, "from its own file");
    assertEquals((await loadTokenizer(a.files)).encode("hello"), a.encode("hello"));
  }));

Deno.test("a folder without a tokenizer, or with a broken one, is an error that says so", () =>
  inFolder(async (folder) => {
    await assertRejects(() => loadTokenizer(folder), FileError, "no tokenizer.json");
    await Deno.writeTextFile(join(folder, "tokenizer.model"), "");
    await assertRejects(() => loadTokenizer(folder), FileError, "AutoTokenizer");
    const json = join(folder, "tokenizer.json");
    await Deno.writeTextFile(json, `{"model": {"type": "Odd"}}`);
    assertEquals(await codeOf(loadTokenizer(json)), "TOKENIZER_INVALID");
    await Deno.writeTextFile(json, "{");
    assertEquals(await codeOf(loadTokenizer(json)), "JSON_INVALID");
  }));

Deno.test("ids that are none, and scores that are no numbers, are refused", () => {
  const files = byteTokenizerFiles();
  const of = (model: object, added: readonly unknown[] = []) => () =>
    createTokenizer({ ...files, tokenizer: { ...files.tokenizer, model, added_tokens: added } });
  const bpe = files.tokenizer.model as { readonly vocab: object };
  for (const id of [1.5, -1, "7", null, NaN, 1e9, 2 ** 60]) {
    assertThrows(
      of({ ...bpe, vocab: { ...bpe.vocab, é: id } }),
      FileError,
      'the id of the string "é"',
    );
    assertThrows(of(bpe, [addedToken(id as number, "<x>", { special: true })]), FileError, "<x>");
  }
  const unigram = { type: "Unigram", unk_id: 0, vocab: [["a", "high"]] };
  assertThrows(of(unigram), FileError, "model.vocab: it needs a text and a number");
});

Deno.test("Digits and ByteLevel of a tokenizer.json treat all of Unicode as the Rust library does", () => {
  const { tokenizer } = byteTokenizerFiles();
  const alphabet = byteAlphabet();
  const spelled = (text: string) =>
    [...new TextEncoder().encode(text)].map((byte) => alphabet[byte]);
  // Merging everything that is left together shows where text was split.
  const merge = (text: string) => {
    const merges: string[] = [];
    let joined = "";
    for (const c of spelled(text)) {
      if (joined) merges.push(`${joined} ${c}`);
      joined += c;
    }
    return merges;
  };
  const merges = [...merge("٣٤"), ...merge("²³"), ...merge("\u0085!"), ...merge("\ufeff!")];
  const vocab = Object.fromEntries(
    [...alphabet, ...merges.map((m) => m.replace(" ", ""))].map((token, id) => [token, id]),
  );
  const make = (pretokenizers: unknown[]) =>
    createTokenizer({
      tokenizer: {
        ...tokenizer,
        pre_tokenizer: { type: "Sequence", pretokenizers },
        model: { type: "BPE", vocab, merges },
      },
      config: {},
    });
  // A text that is not split becomes one token; of "٣٤" split, the second digit stays two bytes.
  const level = { type: "ByteLevel", add_prefix_space: false, use_regex: true };
  const digits = make([{ type: "Digits", individual_digits: true }, level]);
  assertEquals([digits.encode("٣٤").length, digits.encode("²³").length], [3, 3]);
  const runs = make([{ type: "Digits", individual_digits: false }, level]);
  assertEquals([runs.encode("٣٤").length, runs.encode("²³").length], [1, 1]);
  // U+0085 is white space, which splits from "!"; U+FEFF is not.
  assertEquals([runs.encode("\u0085!").length, runs.encode("\ufeff!").length], [2, 1]);
});

Deno.test("the byte tokenizer's ids are the bytes", async () => {
  const t = await loadTokenizer(
    byteTokenizerFiles({
      specialTokens: ["<bos>", "<eos>"],
      bosToken: "<bos>",
      eosToken: "<eos>",
      padToken: "<eos>",
      chatTemplate: "T",
    }),
  );
  const text = "Aé 日\u0000\n👋";
  const bytes = [...new TextEncoder().encode(text)];
  assertEquals(t.encode(text), [256, ...bytes]);
  assertEquals(t.encode("<eos>", { addSpecialTokens: false }), [257]);
  assertEquals(t.decode(t.encode(text), { skipSpecialTokens: true }), text);
  assertEquals([t.bosId, t.eosId, t.padId, t.vocabSize, t.chatTemplate], [256, 257, 257, 258, "T"]);
  const all = Array.from({ length: 256 }, (_, i) => i);
  assertEquals(all.map((id) => t.tokenToId(t.idToToken(id)!)), all);
  assertThrows(() => byteTokenizerFiles({ bosToken: "<bos>" }), ValueError, "<bos>");
});

Deno.test("a long text is encoded in reasonable time", () => {
  const t = create(bpe(MERGES));
  const text = "hello world, 123 more words to come; ".repeat(3000);
  const start = performance.now();
  assert(t.encode(text).length > 50_000);
  assert(performance.now() - start < 3000);
});
