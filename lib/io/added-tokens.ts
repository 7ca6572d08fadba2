/**
 * Tokens that only the files beside `tokenizer.json` know.
 *
 * @module
 */
import { isObject, type JsonObject } from "./json.ts";
import { addedToken, type TokenizerFiles } from "./tokenizer-json.ts";

const NAMED = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((name) => `${name}_token`);

/**
 * Adds the tokens that `tokenizer_config.json` (or, where that lists none, `added_tokens.json`)
 * has and `tokenizer.json` does not, and special tokens that it names, as transformers does: with
 * the id that the vocabulary has for them, or else the next one. Which number the files state does
 * not count.
 *
 * @param added The contents of `added_tokens.json`.
 */
export function withAddedTokens(
  files: TokenizerFiles,
  added: JsonObject = {},
): TokenizerFiles {
  const { tokenizer, config } = files;
  const { added_tokens_decoder: listed } = config;
  const extra = config.extra_special_tokens ?? config.additional_special_tokens ?? [];
  const named = [
    ...NAMED.map((name) => config[name]),
    ...Object.keys(config).filter((name) => /_token$/.test(name) && !NAMED.includes(name))
      .map((name) => config[name]),
    ...isObject(extra) ? Object.values(extra) : [],
  ].filter((token) => contentOf(token) !== undefined);
  const others = (Array.isArray(extra) ? extra : []).filter((token) => contentOf(token));
  const names = new Set(named.map(contentOf));
  const specials = new Set([...names, ...others.map(contentOf)]);
  const given = isObject(listed)
    ? Object.entries(listed)
    : Object.entries(added).map(([content, id]) => {
      const special = specials.has(content);
      return [String(id), { content, special, normalized: !special }] as const;
    });
  const tokens = Array.isArray(tokenizer.added_tokens)
    ? tokenizer.added_tokens.filter(isObject)
    : [];
  const known = new Map(tokens.map((token) => [String(token.content), token]));
  const vocabulary = vocabularyOf(tokenizer.model);
  let last = tokens.reduce((most, { id }) => Math.max(most, Number(id)), -1);
  const add = (token: unknown, special: boolean) => {
    const content = contentOf(token);
    if (!content) return;
    const old = known.get(content);
    if (old) {
      if (special) known.set(content, { ...old, special });
      return;
    }
    const id = vocabulary.get(content) ??
      (last >= vocabulary.size || vocabulary.size === 0 ? last + 1 : vocabulary.size);
    last = Math.max(last, id);
    const flags = isObject(token) ? token : {};
    known.set(content, { ...addedToken(id, content, { special }), ...flags, id, special });
  };
  for (const [, token] of [...given].sort(([a], [b]) => Number(a) - Number(b))) {
    const special = isObject(token) && token.special === true;
    add(token, special || names.has(contentOf(token)));
  }
  for (const token of [...named, ...others]) add(token, true);
  return { ...files, tokenizer: { ...tokenizer, added_tokens: [...known.values()] } };
}

function contentOf(token: unknown): string | undefined {
  const content = isObject(token) ? token.content : token;
  return typeof content === "string" ? content : undefined;
}

/** The ids of a model's own tokens. */
function vocabularyOf(model: unknown): ReadonlyMap<string, number> {
  const { vocab } = isObject(model) ? model : { vocab: null };
  if (Array.isArray(vocab)) return new Map(vocab.map(([token], id) => [String(token), id]));
  return new Map(Object.entries(isObject(vocab) ? vocab as Record<string, number> : {}));
}
