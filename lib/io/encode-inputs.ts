/**
 * Texts, pairs of texts and words to rows of tokens, as models take them.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { checkOptions, oneOf, type OptionRules, show, wholeFrom } from "../options.ts";
import type { RowPart } from "./post-processor.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One text, or one that is split into words already. */
export type TextOrWords = string | readonly string[];

/** What a row is made of: a text, or two that belong together, such as a question and a context. */
export type TextRow = string | {
  /** The text, or its words. */
  readonly text: TextOrWords;
  /** The second text, or its words. */
  readonly pair?: TextOrWords;
};

/** How texts become rows. */
export interface EncodeInputsOptions {
  /** The tokenizer that belongs to the model. */
  readonly tokenizer: Tokenizer;
  /** The longest row in tokens, special ones included; rows stay as they are without it. */
  readonly maxLength?: number;
  /**
   * Which text loses tokens where a row is too long; by default the longer of the two, as long as
   * it is that.
   */
  readonly truncation?: "longest_first" | "only_first" | "only_second";
  /** Where tokens are lost; by default where the tokenizer's config says, else on the right. */
  readonly truncationSide?: "left" | "right";
  /**
   * Makes several rows of what is too long, in place of losing tokens: so many tokens are in both of
   * two that follow one another. Of a pair, `truncation` then says which text is gone through.
   */
  readonly stride?: number;
  /** Whether what the tokenizer puts around texts is put there; true by default. */
  readonly addSpecialTokens?: boolean;
}

const RULES: OptionRules<EncodeInputsOptions> = {
  tokenizer: null,
  maxLength: wholeFrom(1),
  truncation: oneOf(["longest_first", "only_first", "only_second"]),
  truncationSide: oneOf(["left", "right"]),
  stride: wholeFrom(0),
  addSpecialTokens: null,
};

/** A row of tokens, and where each came from. All lists are as long as the row. */
export interface EncodedRow {
  /** Which of the given texts it is of; several rows are of one where there are windows. */
  readonly row: number;
  /** Token ids. */
  readonly inputIds: readonly number[];
  /** Kind of each token. */
  readonly tokenTypeIds: readonly number[];
  /**
   * What a token stands for in its text, or in its word where words were given: UTF-16 positions,
   * begin and end; [0, 0] for special tokens.
   */
  readonly offsets: readonly (readonly [number, number])[];
  /** Which word of its text a token is of; `null` for special tokens. */
  readonly wordIds: readonly (number | null)[];
  /** Which text a token is of, the first (0) or the second (1); `null` for special tokens. */
  readonly sequenceIds: readonly (0 | 1 | null)[];
}

/** The tokens of one text. */
type Tokens = Pick<EncodedRow, "offsets" | "wordIds"> & { readonly ids: readonly number[] };

/**
 * Encodes texts into rows: special tokens around them, types of tokens, where each token came from.
 *
 * @param texts One row each: a text, or a text and its pair; a list of strings in place of a text
 * is its words.
 * @throws {ValueError} `ENCODE_OPTION`; `ENCODE_TEXT` for what is no text; `ENCODE_LENGTH` where
 * `maxLength` leaves no room.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, encodeInputs, loadTokenizer, padRows } from "@graft/peft";
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const rows = encodeInputs(["hello", { text: ["to", "you"] }], { tokenizer, maxLength: 4 });
 * console.log(rows[1].wordIds); // [0, 0, 1, 1]
 * console.log(padRows(rows, { padId: 0, multipleOf: 8 }).attentionMask[0]);
 * // [1, 1, 1, 1, 0, 0, 0, 0]
 * ```
 */
export function encodeInputs(
  texts: readonly TextRow[],
  options: EncodeInputsOptions,
): EncodedRow[] {
  checkOptions(options, RULES, { code: "ENCODE_OPTION", of: "encodeInputs" });
  const { tokenizer, addSpecialTokens = true } = options;
  if (!tokenizer) {
    throw new ValueError("ENCODE_OPTION", "encodeInputs needs a tokenizer; see tokenizerOf.");
  }
  return texts.flatMap((given, row) => {
    const { text, pair } = typeof given === "string" ? { text: given } : given ?? {};
    const first = tokensOf(tokenizer, text, row);
    const second = pair === undefined ? undefined : tokensOf(tokenizer, pair, row);
    const template = tokenizer.rowTemplate[second ? "pair" : "single"]
      .filter((part) => addSpecialTokens || part.text !== undefined);
    return windows(first, second, specialCount(template), { ...options, row })
      .map((texts) => assembled(template, texts, row));
  });
}

function tokensOf(tokenizer: Tokenizer, text: unknown, row: number): Tokens {
  const encode = (part: string) =>
    tokenizer.encodeWithOffsets(part, { addSpecialTokens: false, losesSpaces: true });
  if (typeof text === "string") return encode(text);
  const odd = Array.isArray(text) ? text.find((word) => typeof word !== "string") : text;
  if (!Array.isArray(text) || odd !== undefined) {
    throw new ValueError(
      "ENCODE_TEXT",
      `Row ${row} needs a text, or { text, pair } with texts or lists of words; found ${
        show(odd)
      }.`,
      { row },
    );
  }
  const words = text.map(encode);
  return {
    ids: words.flatMap(({ ids }) => ids),
    offsets: words.flatMap(({ offsets }) => offsets),
    wordIds: words.flatMap(({ ids }, word) => ids.map(() => word)),
  };
}

function specialCount(template: readonly RowPart[]): number {
  return template.reduce((n, { ids }) => n + ids.length, 0);
}

/** The tokens of both texts in each of the rows that a row which may be too long becomes. */
function windows(
  first: Tokens,
  second: Tokens | undefined,
  special: number,
  options: EncodeInputsOptions & { readonly row: number },
): (readonly [Tokens, Tokens?])[] {
  const { tokenizer: { files }, maxLength = Infinity, truncation = "longest_first" } = options;
  const { row, stride } = options;
  const side = options.truncationSide ??
    (files.config.truncation_side === "left" ? "left" : "right");
  const a = first.ids.length, b = second?.ids.length ?? 0, room = maxLength - special;
  if (a + b <= room) return [[first, second]];
  const refuse = (code: string, problem: string) =>
    new ValueError(code, `Row ${row} has ${a + b + special} tokens, ${problem}.`, { row });
  if (truncation === "only_second" && !second) {
    throw refuse("ENCODE_OPTION", 'and truncation is "only_second", but it has no second text');
  }
  let keeps: readonly [number, number];
  if (!second || truncation === "only_first") keeps = [room - b, b];
  else if (truncation === "only_second") keeps = [a, room - a];
  else if (stride !== undefined) {
    throw refuse(
      "ENCODE_OPTION",
      'and stride makes windows of one text only: give truncation "only_first" or "only_second"',
    );
  } else {
    const short = Math.min(a, b, Math.floor(room / 2));
    keeps = a <= b ? [short, room - short] : [room - short, short];
  }
  if (Math.min(...keeps) < 0 || Math.max(...keeps) === 0 || second && keeps.includes(0) && a * b) {
    throw refuse("ENCODE_LENGTH", `and maxLength ${maxLength} leaves no room for what is cut`);
  }
  const whole = truncation === "only_second" ? second! : first;
  const [keep] = truncation === "only_second" ? [keeps[1]] : keeps;
  if (stride === undefined) {
    const cut = (tokens: Tokens, n: number) =>
      side === "right" ? part(tokens, 0, n) : part(tokens, tokens.ids.length - n);
    return [[cut(first, keeps[0]), second && cut(second, keeps[1])]];
  }
  if (stride >= keep) {
    throw refuse("ENCODE_OPTION", `and windows of ${keep} cannot share ${stride}`);
  }
  const { length } = whole.ids, found: Tokens[] = [];
  for (let at = 0, end = 0; end < length; at += keep - stride) {
    end = Math.min(at + keep, length);
    found.push(side === "right" ? part(whole, at, end) : part(whole, length - end, length - at));
  }
  return found.map((window) => whole === first ? [window, second] : [first, window]);
}

function part({ ids, offsets, wordIds }: Tokens, from: number, to?: number): Tokens {
  return {
    ids: ids.slice(from, to),
    offsets: offsets.slice(from, to),
    wordIds: wordIds.slice(from, to),
  };
}

function assembled(
  template: readonly RowPart[],
  texts: readonly [Tokens, Tokens?],
  row: number,
): EncodedRow {
  const parts = template.map(({ ids, text, typeId }) => ({
    typeId,
    sequenceId: text ?? null,
    tokens: text === undefined
      ? { ids, offsets: ids.map(() => [0, 0] as const), wordIds: ids.map(() => null) }
      : texts[text]!,
  }));
  return {
    row,
    inputIds: parts.flatMap(({ tokens }) => tokens.ids),
    tokenTypeIds: parts.flatMap(({ tokens: { ids }, typeId }) => ids.map(() => typeId)),
    offsets: parts.flatMap(({ tokens }) => tokens.offsets),
    wordIds: parts.flatMap(({ tokens }) => tokens.wordIds),
    sequenceIds: parts.flatMap(({ tokens: { ids }, sequenceId }) => ids.map(() => sequenceId)),
  };
}

/** Rows of equal length, as `forward` takes them. */
export interface PaddedRows {
  /** Token ids [B, T]. */
  readonly inputIds: number[][];
  /** 1 for tokens, 0 for padding [B, T]. */
  readonly attentionMask: number[][];
  /** Kind of each token [B, T]; 0 for padding. */
  readonly tokenTypeIds: number[][];
}

/** How rows are padded. */
export interface PadRowsOptions {
  /** What padding holds. */
  readonly padId: number;
  /** Where padding goes; on the right by default. */
  readonly side?: "left" | "right";
  /** What the length is rounded up to; 1 by default. */
  readonly multipleOf?: number;
  /** The least length; that of the longest row by default. */
  readonly length?: number;
  /** A length that rounding up does not go beyond, such as what the model takes. */
  readonly most?: number;
}

/**
 * Pads rows to one length.
 *
 * @throws {ValueError} `ENCODE_OPTION`.
 *
 * @example
 * ```ts
 * import { padRows } from "@graft/peft";
 * const rows = [[5, 6, 7], [8]].map((ids) => ({ inputIds: ids, tokenTypeIds: ids.map(() => 0) }));
 * console.log(padRows(rows, { padId: 1, side: "left" }).inputIds); // [[5, 6, 7], [1, 1, 8]]
 * ```
 */
export function padRows(
  rows: readonly Pick<EncodedRow, "inputIds" | "tokenTypeIds">[],
  options: PadRowsOptions,
): PaddedRows {
  checkOptions(options, {
    padId: wholeFrom(0),
    side: oneOf(["left", "right"]),
    multipleOf: wholeFrom(1),
    length: wholeFrom(0),
    most: null,
  }, { code: "ENCODE_OPTION", of: "padRows" });
  const { padId, side = "right", multipleOf = 1, most = Infinity } = options;
  const longest = rows.reduce((n, row) => Math.max(n, row.inputIds.length), options.length ?? 0);
  const length = Math.max(longest, Math.min(Math.ceil(longest / multipleOf) * multipleOf, most));
  const filled = (row: readonly number[], value: number) => {
    const padding = new Array<number>(length - row.length).fill(value);
    return side === "left" ? [...padding, ...row] : [...row, ...padding];
  };
  return {
    inputIds: rows.map((row) => filled(row.inputIds, padId)),
    attentionMask: rows.map((row) => filled(row.inputIds.map(() => 1), 0)),
    tokenTypeIds: rows.map((row) => filled(row.tokenTypeIds, 0)),
  };
}
