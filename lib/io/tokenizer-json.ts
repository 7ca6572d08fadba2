/**
 * Parts of a `tokenizer.json`.
 *
 * @module
 */
import { FileError } from "../errors.ts";
import { show } from "../options.ts";
import { isObject, type JsonObject } from "./json.ts";

/** What a tokenizer is made from. */
export interface TokenizerFiles {
  /** The contents of `tokenizer.json`. */
  readonly tokenizer: JsonObject;
  /**
   * The contents of `tokenizer_config.json`, with chat templates of files of their own filled in.
   */
  readonly config: JsonObject;
}

/**
 * Refuses ids of tokens that are none, and scores that are no numbers.
 *
 * @throws {FileError} `TOKENIZER_INVALID`.
 */
export function checkVocabulary({ model, added_tokens: added }: JsonObject): void {
  const { vocab } = isObject(model) ? model : {};
  const tokens = Object.keys(vocab ?? {}).length + Object.keys(added ?? {}).length;
  // Ids can have gaps, but not of any size: there is room for each of them.
  const limit = 2 * tokens + 2 ** 16;
  const isId = (id: unknown) =>
    Number.isSafeInteger(id) && id as number >= 0 && id as number < limit;
  const check = (holds: boolean, token: unknown, what: string, value: unknown) => {
    if (holds) return;
    throw new FileError(
      "TOKENIZER_INVALID",
      `The tokenizer.json with ${tokens} tokens cannot be used: the ${what} of ${show(token)} is ${
        show(value)
      }.`,
    );
  };
  if (Array.isArray(vocab)) {
    for (const [token, score] of vocab) check(Number.isFinite(score), token, "score", score);
  } else if (isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) check(isId(id), token, "id", id);
  }
  if (!Array.isArray(added)) return;
  for (const token of added.filter(isObject)) check(isId(token.id), token.content, "id", token.id);
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
