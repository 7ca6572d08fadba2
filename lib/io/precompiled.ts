/**
 * SentencePiece's normalisation from the map of characters that its models bring (T5, XLM-RoBERTa,
 * DeBERTa v2): a double-array trie of UTF-8 and the texts that its leaves stand for.
 *
 * @module
 */
import { FileError } from "../errors.ts";

/** A part of a text, and what stands in its place. */
export interface Replacement {
  /** Where it begins. */
  readonly from: number;
  /** Where it ends. */
  readonly to: number;
  /** What it becomes. */
  readonly text: string;
}

/** Longer clusters are taken character by character. */
const LONGEST_CLUSTER = 5;

const CLUSTERS = new Intl.Segmenter(undefined, { granularity: "grapheme" });
const UTF8 = new TextEncoder(), TEXT = new TextDecoder();

/**
 * Finds what a map of characters changes in a text.
 *
 * @param charsmap `precompiled_charsmap` of a `tokenizer.json`, in base64; empty for no change.
 * @throws {FileError} `TOKENIZER_INVALID` where it is no such map.
 */
export function precompiledReplacements(charsmap: unknown): (text: string) => Replacement[] {
  const { units, texts } = parse(charsmap);
  const known = new Map<string, string | undefined>();
  const replaced = (part: string) => {
    if (!known.has(part)) known.set(part, lookUp(UTF8.encode(part), units, texts));
    return known.get(part);
  };
  return (text) => {
    const changes: Replacement[] = [];
    const change = (part: string, from: number): boolean => {
      const found = replaced(part);
      if (found === undefined) return false;
      if (found !== part) changes.push({ from, to: from + part.length, text: found });
      return true;
    };
    const byCharacter = (part: string, from: number) => {
      for (const character of part) {
        change(character, from);
        from += character.length;
      }
    };
    // Of plain ASCII only the two that end a line belong together.
    if (!/[^\p{ASCII}]/u.test(text) && !text.includes("\r\n")) {
      byCharacter(text, 0);
      return changes;
    }
    for (const { segment, index } of CLUSTERS.segment(text)) {
      const isShort = UTF8.encode(segment).length <= LONGEST_CLUSTER;
      if (!isShort || !change(segment, index)) byCharacter(segment, index);
    }
    return changes;
  };
}

function parse(charsmap: unknown): { readonly units: Uint32Array; readonly texts: Uint8Array } {
  if (charsmap === null || charsmap === undefined || charsmap === "") {
    return { units: new Uint32Array(), texts: new Uint8Array() };
  }
  const bytes = typeof charsmap === "string" ? fromBase64(charsmap) : undefined;
  const view = bytes && new DataView(bytes.buffer);
  const size = bytes && bytes.length >= 4 ? view!.getUint32(0, true) : NaN;
  if (!bytes || !(size % 4 === 0 && size + 4 <= bytes.length)) {
    throw new FileError(
      "TOKENIZER_INVALID",
      "The tokenizer.json cannot be used: the precompiled_charsmap of its normalizer is no map of characters.",
    );
  }
  const units = Uint32Array.from({ length: size / 4 }, (_, i) => view!.getUint32(4 + 4 * i, true));
  return { units, texts: bytes.subarray(4 + size) };
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

/** What stands for the shortest beginning of a key that the trie knows. */
function lookUp(key: Uint8Array, units: Uint32Array, texts: Uint8Array): string | undefined {
  const offset = (unit: number) => (unit >>> 10) << ((unit & 0x200) >>> 6);
  if (units.length === 0) return undefined;
  let at = offset(units[0]);
  for (const byte of key) {
    if (byte === 0) return undefined;
    at = (at ^ byte) >>> 0;
    const unit = units[at];
    // The highest bit marks leaves, whose label is none.
    if (unit === undefined || ((unit & 0x800000ff) >>> 0) !== byte) return undefined;
    at = (at ^ offset(unit)) >>> 0;
    if (unit & 0x100 && at < units.length) {
      const start = units[at] & 0x7fffffff, end = texts.indexOf(0, start);
      return TEXT.decode(texts.subarray(start, end < 0 ? texts.length : end));
    }
  }
  return undefined;
}
