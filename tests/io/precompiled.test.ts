import { assertEquals, assertThrows } from "@std/assert";
import { FileError } from "../../lib/errors.ts";
import { precompiledReplacements } from "../../lib/io/precompiled.ts";
import golden from "./tokenizers.golden.json" with { type: "json" };

const { normalizers } = golden.kinds.unigram_precompiled.tokenizer.normalizer as unknown as {
  readonly normalizers: readonly { readonly precompiled_charsmap: string }[];
};
const [{ precompiled_charsmap: charsmap }] = normalizers;

Deno.test("a map of characters changes clusters, or each character of longer ones", () => {
  const changes = precompiledReplacements(charsmap);
  const changed = (text: string) => {
    let result = "", at = 0;
    for (const { from, to, text: part } of changes(text)) {
      result += text.slice(at, from) + part;
      at = to;
    }
    return result + text.slice(at);
  };
  for (
    const [text, expected] of [
      ["a\tb\r\nc", "a b c"],
      ["①ﬁ…", "1fi..."],
      ["e\u0301", "é"],
      ["\u1112\u1161\u11ab", "\u1112\u1161\u11ab"], // nine bytes: each for itself
      ["👋🏽!", "hi🏽!"],
      ["\u200b\ufeff", ""],
      ["plain", "plain"],
    ]
  ) assertEquals(changed(text), expected, JSON.stringify(text));
  assertEquals(precompiledReplacements("")("①"), []);
});

Deno.test("what is no map of characters is refused, and a damaged one finds nothing", () => {
  for (const bad of [5, {}, "%", "AAA", "/////w==", btoa("\x05\0\0\0aaaaa")]) {
    const error = assertThrows(() => precompiledReplacements(bad), FileError);
    assertEquals(error.code, "TOKENIZER_INVALID");
  }
  const damaged = btoa("\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
  assertEquals(precompiledReplacements(damaged)("abc é"), []);
});
