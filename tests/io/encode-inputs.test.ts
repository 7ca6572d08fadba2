/**
 * Rows against those of transformers; see encode-inputs.golden.py.
 */
import { assertEquals, assertThrows } from "@std/assert";
import { ValueError } from "../../lib/errors.ts";
import {
  type EncodedRow,
  encodeInputs,
  type EncodeInputsOptions,
  padRows,
  type TextRow,
} from "../../lib/io/encode-inputs.ts";
import type { JsonObject } from "../../lib/io/json.ts";
import { createTokenizer } from "../../lib/io/tokenizer.ts";
import golden from "./encode-inputs.golden.json" with { type: "json" };
import tokenizers from "./tokenizers.golden.json" with { type: "json" };

const config = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", pad_token: "</s>" };
const KINDS: Readonly<Record<string, { readonly tokenizer: unknown }>> = tokenizers.kinds;
const ROWS = golden.rows as Readonly<Record<string, readonly TextRow[]>>;

function tokenizerOf(family: { readonly kind: string; readonly post_processor: unknown }) {
  const tokenizer = KINDS[family.kind].tokenizer as JsonObject;
  return createTokenizer({
    tokenizer: { ...tokenizer, post_processor: family.post_processor },
    config,
  });
}

/** Offsets in characters, as Python counts them. */
function inCharacters(rows: readonly EncodedRow[], texts: readonly TextRow[]) {
  return rows.map((row) => {
    const given = texts[row.row],
      { text, pair } = typeof given === "string" ? { text: given, pair: undefined } : given;
    return {
      ...row,
      offsets: row.offsets.map((span, i) => {
        const whole = (row.sequenceIds[i] === 1 ? pair : text) ?? "";
        const part = typeof whole === "string" ? whole : whole[row.wordIds[i] ?? 0] ?? "";
        return span.map((unit) => [...part.slice(0, unit)].length);
      }),
    };
  });
}

for (const [name, family] of Object.entries(golden.families)) {
  Deno.test(`${name}: rows are those of transformers`, () => {
    const tokenizer = tokenizerOf(family);
    for (const { rows, options, encoded } of family.cases) {
      const found = encodeInputs(ROWS[rows], { tokenizer, ...options } as EncodeInputsOptions);
      assertEquals(
        inCharacters(found, ROWS[rows]),
        encoded as unknown as ReturnType<typeof inCharacters>,
        `${rows} ${JSON.stringify(options)}`,
      );
    }
    for (const side of ["left", "right"] as const) {
      const rows = encodeInputs(ROWS.texts, { tokenizer });
      const padded = padRows(rows, { padId: tokenizer.padId!, side, multipleOf: 8 });
      const { inputIds, attentionMask, tokenTypeIds } = padded;
      assertEquals([inputIds, attentionMask, tokenTypeIds], family.padded[side]);
    }
  });
}

Deno.test("what cannot be encoded is refused", () => {
  const tokenizer = tokenizerOf(golden.families.bert);
  const code = (texts: unknown, options: object = {}) => {
    const error = assertThrows(
      () => encodeInputs(texts as TextRow[], { tokenizer, ...options }),
      ValueError,
    );
    return (error as ValueError).code;
  };
  const pair = { text: "Hello there you", pair: "The answer is 42" };
  assertEquals(code([5]), "ENCODE_TEXT");
  assertEquals(code([{ text: ["a", 5] }]), "ENCODE_TEXT");
  assertEquals(code(["a"], { maxLen: 5 }), "ENCODE_OPTION");
  assertEquals(code(["Hello you"], { truncation: "only_second", maxLength: 3 }), "ENCODE_OPTION");
  assertEquals(code(["Hello you"], { maxLength: 2 }), "ENCODE_LENGTH");
  assertEquals(code([pair], { maxLength: 6, truncation: "only_first" }), "ENCODE_LENGTH");
  assertEquals(code([pair], { maxLength: 8, stride: 1 }), "ENCODE_OPTION");
  assertEquals(code(["Hello you there"], { maxLength: 4, stride: 2 }), "ENCODE_OPTION");
  const padded = () => padRows([], { padId: -1 });
  assertEquals((assertThrows(padded, ValueError) as ValueError).code, "ENCODE_OPTION");
});
