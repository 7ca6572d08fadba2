/**
 * From examples to tokens and what is learned of them.
 *
 * @module
 */
import { TrainingError, ValueError } from "../errors.ts";
import { renderChat, renderMarkedChat } from "../io/render-chat.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { BOOLEAN, checkOptions, oneOf, type OptionRules, wholeFrom } from "../options.ts";
import type { Example } from "./examples.ts";
import { type Content, type Conversation, readRow, type Row } from "./rows.ts";

/** Tokens and what is learned of them. */
export interface TokenizedExample {
  /** Token ids. */
  readonly ids: readonly number[];
  /** The ids that are learned, and −100 for those that are only given. Not shifted. */
  readonly labels: readonly number[];
}

/** What becomes of rows that are longer than `maxLength`. */
export type LongRows = "cut" | "drop" | "refuse";

/** The values of {@link LongRows}. */
export const LONG_ROWS: readonly LongRows[] = ["cut", "drop", "refuse"];

/** How examples become tokens. */
export interface TokenizeOptions {
  /** Reads text. */
  readonly tokenizer: Tokenizer;
  /** Tokens of an example at most. */
  readonly maxLength?: number;
  /**
   * What becomes of rows that are longer than `maxLength`. `cut` (the default): texts become several
   * examples, completions and chats lose their end; `drop`: they are left out; `refuse`: they, and
   * rows without anything to learn, are an error.
   */
  readonly longRows?: LongRows;
  /**
   * Whether the end-of-text token is put after texts and completions, and learned; true by default.
   */
  readonly appendEos?: boolean;
}

const TOKENIZE_RULES: OptionRules<TokenizeOptions> = {
  tokenizer: null,
  maxLength: {
    must: "a whole number from 2 on",
    holds: (x) => x === Infinity || wholeFrom(2).holds(x),
  },
  longRows: oneOf(LONG_ROWS),
  appendEos: BOOLEAN,
};

/** Something about rows that their author may not expect. */
export interface DataNote {
  /**
   * `UNKNOWN_FIELD`, `TWO_FORMS`, `EMPTY`, `NOTHING_TO_LEARN`, `TOO_LONG`, `SPLIT_CHAT`,
   * `TOKEN_ACROSS` or `OTHER_PROMPT`.
   */
  readonly code: string;
  /** In a sentence. */
  readonly message: string;
  /** How many rows it is about. */
  readonly count: number;
  /** The numbers of those rows, from 0. */
  readonly rows: readonly number[];
}

/** Tokenized examples and what was noticed. */
export interface TokenizedData {
  /** What can be learned from. */
  readonly examples: readonly TokenizedExample[];
  /** What was noticed about rows; empty where all of them were read and kept as they are. */
  readonly notes: readonly DataNote[];
}

/**
 * The tokens of examples and the labels that belong to them: all of a text, the completion of a
 * prompt, the assistant's turns of a chat, each turn with the tokens that the template ends it
 * with; where the template marks what is learned by `{% generation %}`, that. A text is encoded as a
 * whole, so that the ids are those of transformers; a token that holds an end of what is learned is
 * learned.
 *
 * A chat whose template writes earlier turns differently once later ones follow (as those do that
 * drop a turn's reasoning), and has no `{% generation %}`, becomes one example for each of the
 * assistant's turns.
 *
 * @throws {TrainingError} `DATASET_EMPTY` where no token is left to learn.
 * @throws {ValueError} `CHAT_TEMPLATE_MISSING` for chats without a template, `CHAT_TEMPLATE` where
 * it fails, `DATA_EXAMPLE` for what is no example, `DATA_LENGTH` for rows that `longRows` refuses,
 * `DATA_OPTION`.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, loadTokenizer, padExamples, tokenizeExamples } from "@graft/peft";
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const examples = tokenizeExamples([{ prompt: "1+1=", completion: "2" }], { tokenizer });
 * console.log(examples[0].labels); // [-100, -100, -100, -100, 50]
 * console.log(padExamples(examples, { batchSize: 1, multipleOf: 8 })[0].attentionMask);
 * // [[1, 1, 1, 1, 1, 0, 0, 0]]
 * ```
 */
export function tokenizeExamples(
  examples: readonly Example[],
  options: TokenizeOptions,
): TokenizedExample[] {
  checkOptions(options, TOKENIZE_RULES, { code: "DATA_OPTION", of: "tokenizeExamples" });
  return [...tokenizeData(examples, options).examples];
}

/**
 * What {@link tokenizeExamples} gives, with notes about rows that were cut or left out, are empty,
 * or have fields that nothing reads.
 *
 * @throws As {@link tokenizeExamples}.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, loadTokenizer, tokenizeData } from "@graft/peft";
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const { notes } = tokenizeData([{ text: "abcdef" }], { tokenizer, maxLength: 4 });
 * console.log(notes.map(({ code, rows }) => [code, rows])); // [["TOO_LONG", [0]]]
 * ```
 */
export function tokenizeData(
  examples: readonly Example[],
  options: TokenizeOptions,
): TokenizedData {
  checkOptions(options, TOKENIZE_RULES, { code: "DATA_OPTION", of: "tokenizeData" });
  const { tokenizer, maxLength = Infinity, longRows = "cut" } = options;
  if (!tokenizer) {
    throw new ValueError("DATA_OPTION", "tokenizeExamples needs a tokenizer; see tokenizerOf.");
  }
  const rows = examples.map((example, index): Row => {
    const row = readRow(example);
    if (typeof row !== "string") return row;
    throw new ValueError("DATA_EXAMPLE", `Example ${index} ${row}.`, { index });
  });
  const notes = new Map<string, { code: string; rows: number[]; text: (n: string) => string }>();
  const note = (row: number, code: string, text: (rows: string) => string, about = code) => {
    const known = notes.get(about) ?? { code, rows: [], text };
    if (known.rows.at(-1) !== row) known.rows.push(row);
    notes.set(about, known);
  };
  const tokenized: TokenizedExample[] = [];
  for (const [index, { content, unread, forms }] of rows.entries()) {
    for (const name of unread) {
      note(index, "UNKNOWN_FIELD", (n) => `The field "${name}" of ${n} is not read.`, name);
    }
    if (forms.length > 1) {
      const [taken, ...others] = forms.map((name) => `"${name}"`);
      const text = (n: string) =>
        `${n}: of ${taken} beside ${others.join(", ")} only ${taken} is learned.`;
      note(index, "TWO_FORMS", text, forms.join());
    }
    if (isEmpty(content)) note(index, "EMPTY", (n) => `${n}: what is learned is an empty text.`);
    const found = tokenize(content, options, index);
    if (found.length > 1) {
      const text = (n: string) =>
        `${n}: an example for each answer, as the template writes earlier ones differently.`;
      note(index, "SPLIT_CHAT", text);
    }
    if (found.some(({ across }) => across)) {
      const text = (n: string) =>
        `${n}: a token holds the end of what is given and the beginning of what is learned, so that generating begins differently.`;
      note(index, "TOKEN_ACROSS", text);
    }
    if (found.some(({ unlike }) => unlike)) {
      const text = (n: string) =>
        `${n}: the template does not begin an answer as its generation prompt does; what comes after they part is learned.`;
      note(index, "OTHER_PROMPT", text);
    }
    let learns = false;
    for (const { ids, labels } of found) {
      if (ids.length > maxLength) {
        const fate = longRows === "cut"
          ? content.kind === "text" ? "cut into several examples" : "without what is beyond"
          : longRows === "drop"
          ? "left out"
          : "refused";
        const text = (n: string) => `${n}: longer than ${maxLength} tokens, ${fate}.`;
        note(index, "TOO_LONG", text, fate);
        learns ||= longRows !== "cut";
        if (longRows !== "cut") continue;
      }
      const end = content.kind === "text" ? ids.length : Math.min(ids.length, maxLength);
      for (let start = 0; start < end; start += maxLength) {
        const piece = {
          ids: ids.slice(start, start + maxLength),
          labels: labels.slice(start, start + maxLength),
        };
        // The first token is predicted by nothing.
        if (!piece.labels.some((label, i) => i > 0 && label !== IGNORED_LABEL)) continue;
        learns = true;
        tokenized.push(piece);
      }
    }
    if (!learns) {
      const text = (n: string) =>
        `${n}: nothing to learn${
          maxLength === Infinity ? "" : ` in the first ${maxLength} tokens`
        }, left out.`;
      note(index, "NOTHING_TO_LEARN", text);
    }
  }
  const all = Array.from(notes.values(), ({ code, rows, text }): DataNote => ({
    code,
    message: text(named(rows)),
    count: rows.length,
    rows,
  }));
  const refused = all.filter(({ code }) => code === "TOO_LONG" || code === "NOTHING_TO_LEARN");
  if (longRows === "refuse" && refused.length) {
    throw new ValueError(
      "DATA_LENGTH",
      `Rows do not fit, and longRows is "refuse". ${refused.map((n) => n.message).join(" ")}`,
      { notes: refused },
    );
  }
  if (tokenized.length === 0) throw nothingToLearn(examples.length, maxLength);
  return { examples: tokenized, notes: all };
}

function nothingToLearn(rows: number, maxLength: number): TrainingError {
  return new TrainingError(
    "DATASET_EMPTY",
    rows === 0
      ? "There is nothing to train on: the data set holds no example."
      : `None of the ${rows} examples has a token to learn${
        maxLength === Infinity ? "" : ` within its first ${maxLength}`
      }: they are empty, or their prompts take up all the room.`,
    { examples: rows },
  );
}

/** Rows by their numbers, from 1: "Row 3", "3 rows (1, 5, 6)". */
function named(rows: readonly number[]): string {
  if (rows.length === 1) return `Row ${rows[0] + 1}`;
  const first = rows.slice(0, 5).map((row) => row + 1);
  return `${rows.length} rows (${first.join(", ")}${rows.length > 5 ? ", …" : ""})`;
}

function isEmpty(content: Content): boolean {
  switch (content.kind) {
    case "text":
      return content.text === "";
    case "completion":
      return content.completion === "";
    case "chat":
      return content.messages.some(({ content: said, tool_calls }, i) =>
        content.learned[i] && (said === "" || Array.isArray(said) && said.length === 0) &&
        tool_calls == null
      );
  }
}

interface Marked extends TokenizedExample {
  /** Whether a token begins in what is given and ends in what is learned. */
  readonly across: boolean;
  /** Whether an answer does not begin with what asks for one. */
  readonly unlike?: boolean;
}

function tokenize(content: Content, options: TokenizeOptions, index: number): Marked[] {
  const { tokenizer } = options;
  switch (content.kind) {
    case "text": {
      const ids = ended(tokenizer.encode(content.text), options);
      return [{ ids, labels: ids, across: false }];
    }
    case "completion":
      return [tokenizeCompletion(content, options)];
    case "chat": {
      const { plain } = content;
      if (plain && Object.keys(tokenizer.chatTemplates).length === 0) {
        return [tokenizeCompletion(plain, options)];
      }
      try {
        return tokenizeChat(content, tokenizer);
      } catch (cause) {
        if (!(cause instanceof ValueError)) throw cause;
        const { code, message, details } = cause;
        throw new ValueError(code, `Row ${index + 1}: ${message}`, {
          ...details,
          cause,
          row: index,
        });
      }
    }
  }
}

function ended(ids: readonly number[], options: TokenizeOptions): readonly number[] {
  const { tokenizer: { eosId }, appendEos = true } = options;
  return appendEos && eosId !== undefined && ids[ids.length - 1] !== eosId ? [...ids, eosId] : ids;
}

function tokenizeCompletion(
  { prompt, completion }: Content & { readonly kind: "completion" },
  options: TokenizeOptions,
): Marked {
  const text = prompt + completion;
  const marked = encode(options.tokenizer, text, [[prompt.length, text.length]], {
    addSpecialTokens: true,
  });
  // What is put after the text, by the tokenizer or here, ends the completion.
  const ids = ended(marked.ids, options);
  const last = marked.labels.findLastIndex((label) => label !== IGNORED_LABEL);
  const after = last < 0 ? options.tokenizer.encode(text).length : last + 1;
  return { ...marked, ids, labels: [...marked.labels.slice(0, after), ...ids.slice(after)] };
}

function tokenizeChat(chat: Conversation, tokenizer: Tokenizer): Marked[] {
  const { messages, learned, options } = chat;
  const whole = renderMarkedChat(tokenizer, messages, options);
  if (whole.marksGenerated) {
    const unclear = whole.generated.some(({ message }) => message === undefined);
    if (unclear && messages.some(({ role }, i) => role === "assistant" && !learned[i])) {
      throw new ValueError(
        "CHAT_TEMPLATE",
        "The chat template does not go through the messages in a loop, so it cannot be told which of the parts that it marks belong to the messages that are not to be learned.",
      );
    }
    const spans = whole.generated
      .filter(({ message }) => message === undefined || learned[message])
      .map(({ start, end }) => [start, end] as const);
    return [encode(tokenizer, whole.text, spans, { endsAtFirst: true })];
  }
  const turns = messages.flatMap((_, i) => {
    if (!learned[i]) return [];
    const asked = { ...options, addGenerationPrompt: true };
    const before = renderChat(tokenizer, messages.slice(0, i), asked);
    const after = i + 1 < messages.length
      ? renderChat(tokenizer, messages.slice(0, i + 1), options)
      : whole.text;
    if (after.startsWith(before)) return [{ after, span: [before.length, after.length] as const }];
    // Such as a prompt that opens the reasoning, which the template leaves out of what was said.
    let parting = 0;
    while (after[parting] === before[parting]) parting++;
    const given = renderChat(tokenizer, messages.slice(0, i), options);
    if (!after.startsWith(given) || parting < given.length) {
      throw new ValueError(
        "CHAT_TEMPLATE",
        `The chat template writes what comes before the assistant's turn (message ${
          i + 1
        }) differently once that follows, ` +
          "so it cannot be told which tokens are the assistant's. Give the data as prompt and completion.",
        { message: i },
      );
    }
    return [{ after, span: [parting, after.length] as const, unlike: true }];
  });
  const unlike = turns.some((turn) => "unlike" in turn);
  if (turns.every(({ after }) => whole.text.startsWith(after))) {
    return [{ ...encode(tokenizer, whole.text, turns.map(({ span }) => span)), unlike }];
  }
  return turns.map(({ after, span }) => ({ ...encode(tokenizer, after, [span]), unlike }));
}

/** The ids of a text; those are learned that stand for something between the ends of a span. */
function encode(
  tokenizer: Tokenizer,
  text: string,
  spans: readonly (readonly [number, number])[],
  { addSpecialTokens = false, endsAtFirst = false } = {},
): Marked {
  const { ids, offsets } = tokenizer.encodeWithOffsets(text, { addSpecialTokens });
  const labels = new Array<number>(ids.length).fill(IGNORED_LABEL);
  let across = false;
  for (const [start, end] of spans) {
    const holds = ([from, to]: readonly [number, number]) => from < end && to > start;
    const first = offsets.findIndex(holds);
    if (first < 0) continue;
    across ||= offsets[first][0] < start;
    // Where several tokens spell the last character, transformers takes the first of them only.
    const ends = ([from, to]: readonly [number, number]) => from < end && to >= end;
    const last = endsAtFirst ? offsets.findIndex(ends) : -1;
    const until = last < 0 ? offsets.findLastIndex(holds) : last;
    for (let i = first; i <= until; i++) labels[i] = ids[i];
  }
  return { ids, labels, across };
}
