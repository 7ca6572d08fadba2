/**
 * Parts of a `tokenizer.json`.
 *
 * @module
 */
import type { JsonObject } from "./json.ts";

/** What a tokenizer is made from. */
export interface TokenizerFiles {
  /** The contents of `tokenizer.json`. */
  readonly tokenizer: JsonObject;
  /**
   * The contents of `tokenizer_config.json`, with chat templates of files of their own filled in.
   */
  readonly config: JsonObject;
}

/** A token that is matched in the text before anything else is looked at. */
export function addedToken(
  id: number,
  content: string,
  options: { readonly special: boolean },
): JsonObject {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: options.special,
  };
}

/** A special token with its id. */
export interface SpecialToken {
  /** Its id. */
  readonly id: number;
  /** How it is written. */
  readonly content: string;
}

/** The post-processor that puts special tokens around each text; null where there are none. */
export function wrapSequences(
  options: { readonly before?: SpecialToken; readonly after?: SpecialToken },
): JsonObject | null {
  const { before, after } = options;
  const used = [before, after].filter((token) => token !== undefined);
  if (used.length === 0) return null;
  const special = (token: SpecialToken | undefined, type: number) =>
    token ? [{ SpecialToken: { id: token.content, type_id: type } }] : [];
  const around = (id: string, type: number) => [
    ...special(before, type),
    { Sequence: { id, type_id: type } },
    ...special(after, type),
  ];
  return {
    type: "TemplateProcessing",
    single: around("A", 0),
    pair: [...around("A", 0), ...around("B", 1)],
    special_tokens: Object.fromEntries(
      used.map(({ id, content }) => [content, { id: content, ids: [id], tokens: [content] }]),
    ),
  };
}
