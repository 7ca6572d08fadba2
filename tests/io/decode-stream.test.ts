import { assert, assertEquals } from "@std/assert";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { createDecodeStream } from "../../lib/io/decode-stream.ts";
import { createTokenizer, type Tokenizer } from "../../lib/io/tokenizer.ts";

const bytes = createTokenizer(byteTokenizerFiles({ specialTokens: ["<end>"] }));

function stream(tokenizer: Tokenizer, ids: readonly number[], skipSpecialTokens = false): string[] {
  const stream = createDecodeStream(tokenizer, { skipSpecialTokens });
  return [...ids.map((id) => stream.push(id)), stream.flush()];
}

Deno.test("a character comes when its last byte has come", () => {
  const ids = bytes.encode("aé日👋z");
  assertEquals(stream(bytes, ids), ["a", "", "é", "", "", "日", "", "", "", "👋", "z", ""]);
});

Deno.test("bytes that are no text come out as decoding all at once gives them", () => {
  let seed = 7;
  const next = (n: number) => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % n;
  const parts = [0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0x41, 0xff];
  for (let round = 0; round < 300; round++) {
    const ids = Array.from({ length: 12 }, () => next(2) ? parts[next(parts.length)] : next(256));
    assertEquals(stream(bytes, ids).join(""), bytes.decode(ids), ids.join());
  }
});

Deno.test("what is unfinished at the end comes with flush, and the stream can go on", () => {
  const s = createDecodeStream(bytes);
  assertEquals([s.push(0xe2), s.push(0x82), s.flush()], ["", "", "\ufffd"]);
  assertEquals([s.push(0x41), s.flush()], ["A", ""]);
});

Deno.test("special tokens are left out when asked for", () => {
  const ids = [...bytes.encode("a"), 256, ...bytes.encode("é")];
  assertEquals(stream(bytes, ids).join(""), "a<end>é");
  assertEquals(stream(bytes, ids, true), ["a", "", "", "é", ""]);
});

Deno.test("a decoder that drops the first space of a text keeps the others", () => {
  const vocab = Object.fromEntries(
    ["▁", "▁the", "▁cat", "s", "<0xC3>", "<0xA9>"].map((t, i) => [t, i]),
  );
  const t = createTokenizer({
    tokenizer: {
      model: { type: "BPE", vocab, merges: [], byte_fallback: true },
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
    },
    config: {},
  });
  assertEquals(stream(t, [1, 2, 3, 1, 4, 5, 2]), ["the", " cat", "s", " the", "", "é", " cat", ""]);
});

Deno.test("the work per id does not grow with the text", () => {
  let decoded = 0;
  const counting: Tokenizer = {
    ...bytes,
    decode: (ids, options) => {
      const list = [...ids];
      decoded += list.length;
      return bytes.decode(list, options);
    },
  };
  stream(counting, bytes.encode("grün ".repeat(200)));
  assert(decoded < 1200 * 8, `${decoded} ids were decoded`);
});
