/**
 * Ids and offsets against those of transformers; see tokenizers.golden.py.
 */
import { assert, assertEquals } from "@std/assert";
import type { JsonObject } from "../../lib/io/json.ts";
import { createTokenizer } from "../../lib/io/tokenizer.ts";
import golden from "./tokenizers.golden.json" with { type: "json" };

const config = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" };

for (const [kind, { tokenizer: json, texts }] of Object.entries(golden.kinds)) {
  Deno.test(`${kind}: texts have the ids and offsets that transformers gives`, () => {
    const tokenizer = createTokenizer({ tokenizer: json as unknown as JsonObject, config });
    golden.texts.forEach((text, i) => {
      const { ids, offsets } = tokenizer.encodeWithOffsets(text, { addSpecialTokens: false });
      const spelled = ids.map((id) => tokenizer.idToToken(id));
      const expected = texts[i].ids.map((id) => tokenizer.idToToken(id));
      assertEquals(spelled, expected, JSON.stringify(text));
      assertEquals(ids, texts[i].ids, JSON.stringify(text));
      assertEquals(tokenizer.encode(text), texts[i].wrapped);
      // Python counts characters. A character's marks and jamo, and spaces that become one, are dropped by
      // transformers and belong to what is left of them here.
      const characters = [...text];
      const between = (from: number, to: number) => characters.slice(from, to).join("");
      offsets.forEach((span, n) => {
        const [from, to] = span.map((unit) => [...text.slice(0, unit)].length);
        const [first, last] = texts[i].offsets.slice(2 * n);
        if (first === last) return; // a trimmed space stands for itself here, for nothing there
        const extra = between(from, first) + between(last, to);
        assert(
          from <= first && to >= last && /^[\s\u200b\p{M}\u1160-\u11ff]*$/u.test(extra),
          `${JSON.stringify(text)}: token ${n}, ${spelled[n]}: ${from}–${to}, not ${first}–${last}`,
        );
      });
    });
  });
}
