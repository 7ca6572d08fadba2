/**
 * Whether the parts of a `tokenizer.json` are what the library that runs it takes them for.
 *
 * @module
 */
import { z } from "zod";
import { FileError } from "../errors.ts";
import { show } from "../options.ts";
import { effortOf, parseRegExp } from "../regexp/effort.ts";
import { isObject } from "./json.ts";
import type { TokenizerFiles } from "./tokenizer-json.ts";

/** How far ids may go beyond the number of tokens: some vocabularies have gaps. */
const GAPS = 1 << 20;
/** Characters of an added token; the engine has an end for what it searches texts for. */
const LONGEST_TOKEN = 1 << 14;
/** What a pattern may take at one place of a text: one loop in all its lengths. */
const MOST = { degree: 1, ways: 4096 } as const;

const ID = z.int().min(0), FLAG = z.boolean().nullish(), TEXT = z.string().nullish();

const isId = (x: unknown): x is number => Number.isSafeInteger(x) && x as number >= 0;

// Vocabularies are long, and these rules many times as fast as those that would be put together.
const VOCABULARY = z.custom(isObject, { error: "it needs a number for each token" });
const PIECES = z.custom(
  (x) =>
    Array.isArray(x) && x.length > 0 &&
    x.every((piece) =>
      Array.isArray(piece) && typeof piece[0] === "string" && Number.isFinite(piece[1])
    ),
  { error: "it needs a text and a number for each token" },
);
const MERGES = z.custom(
  (x) =>
    Array.isArray(x) &&
    (x.every(isMergedText) || x.every((merge) =>
      Array.isArray(merge) && merge.length === 2 && merge.every((token) =>
        typeof token === "string"
      )
    )),
  { error: "it needs a pair of texts for each merge" },
);

function isMergedText(merge: unknown): boolean {
  return typeof merge === "string" && merge.includes(" ");
}

const COMMON = { unk_token: TEXT, byte_fallback: FLAG, fuse_unk: FLAG, ignore_merges: FLAG };
const MODELS: Readonly<Record<string, z.ZodType>> = {
  BPE: z.looseObject({
    ...COMMON,
    vocab: VOCABULARY,
    merges: MERGES,
    continuing_subword_prefix: TEXT,
    end_of_word_suffix: TEXT,
  }),
  WordPiece: z.looseObject({
    ...COMMON,
    vocab: VOCABULARY,
    continuing_subword_prefix: TEXT,
    max_input_chars_per_word: ID.nullish(),
  }),
  Unigram: z.looseObject({ ...COMMON, vocab: PIECES, unk_id: ID.nullish() }),
};

/** A part that may be a sequence of parts. */
const part = (list: string, kinds: Readonly<Record<string, z.ZodType>> = {}): z.ZodType => {
  const one: z.ZodType = z.lazy(() =>
    z.looseObject({
      type: z.string(),
      pattern: z.union([
        z.looseObject({ Regex: z.string() }),
        z.looseObject({ String: z.string() }),
      ]).optional(),
      ...Object.fromEntries(
        ["content", "replacement", "prepend", "prefix", "suffix"].map((name) => [name, TEXT]),
      ),
      ...Object.fromEntries(["start", "stop"].map((name) => [name, ID.nullish()])),
      length: z.int().min(1).nullish(),
      [list]: z.array(one).optional(),
    }).superRefine((value, context) => {
      const rule = value.type === "Sequence"
        ? z.looseObject({ [list]: z.array(z.unknown()) })
        : Object.hasOwn(kinds, value.type)
        ? kinds[value.type]
        : z.unknown();
      for (const { path, message } of rule.safeParse(value).error?.issues ?? []) {
        context.addIssue({ code: "custom", path: [...path], message });
      }
    })
  );
  return one.nullish();
};

const NAMED = z.tuple([z.string(), ID]);
const TEMPLATE = z.array(z.union([
  z.looseObject({ SpecialToken: z.looseObject({ id: z.string() }) }),
  z.looseObject({ Sequence: z.looseObject({ id: z.enum(["A", "B"]) }) }),
]));

const TOKENIZER = z.looseObject({
  model: z.looseObject({ type: z.string().nullish() }),
  added_tokens: z.array(z.looseObject({
    id: ID,
    content: z.string().min(1).max(LONGEST_TOKEN),
    ...Object.fromEntries(
      ["special", "lstrip", "rstrip", "single_word", "normalized"].map((name) => [name, FLAG]),
    ),
  })).nullish(),
  normalizer: part("normalizers"),
  pre_tokenizer: part("pretokenizers"),
  decoder: part("decoders"),
  post_processor: part("processors", {
    TemplateProcessing: z.looseObject({ single: TEMPLATE, pair: TEMPLATE }),
    BertProcessing: z.looseObject({ cls: NAMED, sep: NAMED }),
    RobertaProcessing: z.looseObject({ cls: NAMED, sep: NAMED }),
  }),
});

/**
 * Refuses a `tokenizer.json` with parts of another form, and with ids that are no numbers or lie far
 * beyond the number of its tokens.
 *
 * @throws {FileError} `TOKENIZER_INVALID`, which names the part.
 */
export function checkTokenizerFiles({ tokenizer }: TokenizerFiles): void {
  const fail = (what: string) =>
    new FileError("TOKENIZER_INVALID", `The tokenizer.json cannot be used: ${what}.`);
  const { model, added_tokens: added } = tokenizer;
  const { type } = isObject(model) ? model : {};
  const [issue] = [
    TOKENIZER.safeParse(tokenizer),
    typeof type === "string" && Object.hasOwn(MODELS, type)
      ? z.looseObject({ model: MODELS[type] }).safeParse(tokenizer)
      : undefined,
  ].flatMap((checked) => checked?.error?.issues ?? []);
  if (issue) {
    const [part, at] = issue.path;
    const { content } = part === "added_tokens" && Array.isArray(added) && added[Number(at)] || {};
    const which = content === undefined ? "" : ` (${show(content)})`;
    throw fail(`${issue.path.join(".")}${which}: ${issue.message}`);
  }
  const { vocab, unk_id: unknown } = model as { vocab?: object; unk_id?: number };
  const own: [string, unknown][] = Array.isArray(vocab) ? [] : Object.entries(vocab ?? {});
  const others = ((added ?? []) as readonly { readonly id: number; readonly content: string }[])
    .map(({ id, content }): [string, unknown] => [content, id]);
  const count = Array.isArray(vocab) ? vocab.length : own.length;
  const most = count + others.length + GAPS;
  for (const [part, ids] of [["model.vocab", own], ["added_tokens", others]] as const) {
    const far = ids.find(([, id]) => !isId(id) || id > most);
    if (!far) continue;
    const [token, id] = far;
    throw fail(
      `the id of ${show(token)} in ${part} is ${show(id)}, and there are ${count} tokens`,
    );
  }
  if (Array.isArray(vocab) && unknown != null && unknown >= count) {
    throw fail(`model.unk_id is ${unknown}, and there are ${count} tokens`);
  }
}

/**
 * Refuses patterns that the engine might not come to an end with. Of what tokenizers split text by,
 * none tries more than one loop in all its lengths.
 *
 * @param parts What runs the parts; the expressions in it are looked for.
 * @throws {FileError} `TOKENIZER_INVALID`.
 */
export function checkPatterns(parts: unknown): void {
  if (parts instanceof RegExp) {
    const { degree, ways } = effortOf(parseRegExp(parts.source, parts.flags));
    if (degree <= MOST.degree && ways <= MOST.ways) return;
    throw new FileError(
      "TOKENIZER_INVALID",
      `The tokenizer.json cannot be used: its pattern ${
        JSON.stringify(parts.source)
      } has loops in loops or after one another, with which a text may take for ever.`,
    );
  }
  // The library's parts are functions with fields.
  if ((typeof parts !== "object" && typeof parts !== "function") || parts === null) return;
  for (const key of ["normalizers", "tokenizers", "decoders", "pattern"]) {
    if (Object.hasOwn(parts, key)) checkPatterns((parts as Record<string, unknown>)[key]);
  }
  if (Array.isArray(parts)) { for (const part of parts) checkPatterns(part); }
}
