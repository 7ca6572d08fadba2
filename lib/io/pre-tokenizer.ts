/**
 * Pre-tokenizers: how text is cut before a vocabulary is looked at.
 *
 * @module
 */
import { isObject, type JsonObject } from "./json.ts";

/** GPT-2's pattern, by which `ByteLevel` splits when it is not told otherwise. */
export const GPT2_PATTERN: string = String
  .raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** The `ByteLevel` pre-tokenizer (and decoder) that only spells bytes and does not split. */
export const SPELL_BYTES: JsonObject = {
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: false,
};

/** A pre-tokenizer that splits text into the matches of a pattern and what lies between them. */
export function splitBy(pattern: string): JsonObject {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

/**
 * Rewrites pre-tokenizers in which the JavaScript library departs from the Rust one: its `Digits`
 * knows ASCII digits only, and the others have another idea of white space. As `Split` by a pattern
 * both do the same.
 */
export function alignPreTokenizer(value: unknown): unknown {
  if (!isObject(value)) return value;
  switch (value.type) {
    case "Sequence":
      return {
        ...value,
        pretokenizers: (value.pretokenizers as readonly unknown[]).map(alignPreTokenizer),
      };
    case "WhitespaceSplit":
      return { ...splitBy("\\s+"), behavior: "Removed" };
    case "Whitespace":
      return { ...splitBy("\\w+|[^\\w\\s]+"), behavior: "Removed", invert: true };
    case "Digits":
      return splitBy(value.individual_digits ? "\\p{N}" : "\\p{N}+");
    case "ByteLevel":
      if (value.use_regex === false || value.add_prefix_space) return value;
      return { type: "Sequence", pretokenizers: [splitBy(GPT2_PATTERN), SPELL_BYTES] };
    default:
      return value;
  }
}
