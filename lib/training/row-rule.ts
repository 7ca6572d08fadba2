/**
 * What rows of data become, whatever the task: the types that its rules share.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import type { TakeNote } from "./notes.ts";
import type { DataRow } from "./read-table.ts";

/** Tokens and what is learned of them. */
export interface TokenizedExample {
  /** Token ids. */
  readonly ids: readonly number[];
  /**
   * What is learned. Of `tokens`: the ids or classes, and −100 for those that are only given, not
   * shifted; of the `row`: its class, its numbers, or 1 for each label that it has and 0 for the
   * others; of a `decoder`: the ids to write; of a `span`: its first and its last token; `none` where
   * it is learned which texts belong together.
   */
  readonly labels: readonly number[];
  /** What the labels are of; of `tokens` by default. */
  readonly labelsOf?: "tokens" | "row" | "decoder" | "span" | "none";
  /** The image that stands for tokens: its path, or the contents of its file. */
  readonly image?: string | Uint8Array;
  /** Kind of each token, where the model takes it. */
  readonly tokenTypeIds?: readonly number[];
  /** Of an anchor: its positive, and a negative where there is one. */
  readonly others?: readonly Pick<TokenizedExample, "ids" | "tokenTypeIds">[];
  /** Of a window on a context in which an answer is looked for: where its tokens are. */
  readonly window?: AnswerWindow;
  /** Of a text to be written: the text. */
  readonly target?: string;
}

/** Where in a context a question's answer is looked for. */
export interface AnswerWindow {
  /** Number of the question; windows of one have the same. */
  readonly row: number;
  /** The context. */
  readonly context: string;
  /** What each token stands for in it: UTF-16 positions, and `null` for what is not of it. */
  readonly offsets: readonly (readonly [number, number] | null)[];
  /** The token that stands for no answer. */
  readonly none: number;
  /** All right answers; none where there is none. */
  readonly answers: readonly string[];
}

/** What becomes of rows that are longer than `maxLength`. */
export type LongRows = "cut" | "drop" | "refuse";

/** The values of {@link LongRows}. */
export const LONG_ROWS: readonly LongRows[] = ["cut", "drop", "refuse"];

/** Which columns hold what; those that are not named are found by the names that are usual. */
export interface Columns {
  /** The text or the image, the words, the question, what is rewritten, or the anchor. */
  readonly text?: string;
  /** The second text, the context, or what belongs to the anchor. */
  readonly pair?: string;
  /** The class, labels, number, tags, answers, or what is to be written. */
  readonly label?: string;
  /** What does not belong to the anchor. */
  readonly negative?: string;
}

/** How examples become tokens. */
export interface TokenizeOptions {
  /** Reads text; not needed for models of images. */
  readonly tokenizer?: Tokenizer;
  /**
   * The model that is to learn: its task says what rows hold, its config what classes are called. A
   * causal language model by default.
   */
  readonly model?: ModelGraph;
  /** Which columns hold what, for tasks other than a causal language model's. */
  readonly columns?: Columns;
  /** What messages call the rows, such as the name of a file. */
  readonly name?: string;
  /** Where paths of images begin; the working folder by default. */
  readonly folder?: string;
  /** Tokens of an example at most. */
  readonly maxLength?: number;
  /**
   * What becomes of rows that are longer than `maxLength`. `cut` (the default): texts become several
   * examples, completions and chats lose their end, and so do all others but for contexts of
   * questions, which become several windows; `drop`: they are left out; `refuse`: they, and
   * rows without anything to learn, are an error.
   */
  readonly longRows?: LongRows;
  /**
   * Whether the end-of-text token is put after texts, completions and what is to be written, and
   * learned; true by default.
   */
  readonly appendEos?: boolean;
  /** Tokens that two windows on a long context share; a third of `maxLength` by default. */
  readonly stride?: number;
  /** Whether all pieces of a word learn its tag, not the first alone; false by default. */
  readonly labelAllTokens?: boolean;
  /** What stands before each text to be rewritten, such as `summarize: `. */
  readonly sourcePrefix?: string;
  /** Tokens of what is to be written at most; `maxLength` by default. */
  readonly maxTargetLength?: number;
}

/** What rules get. */
export interface RowOptions extends TokenizeOptions {
  /** As given; rules of images do not look at it. */
  readonly tokenizer: Tokenizer;
  /** As given, or no limit. */
  readonly maxLength: number;
  /** As given, or `cut`. */
  readonly longRows: LongRows;
  /** Takes notes. */
  readonly note: TakeNote;
  /** Notes that a row is too long, and what becomes of it where that is not refused. */
  tooLong(row: number, cut: string): void;
}

/**
 * Looks at all rows, and gives what makes examples of each; none of what cannot be learned.
 *
 * @throws {ValueError} `DATA_EXAMPLE` for a row that is none.
 */
export type RowRule = (
  rows: readonly DataRow[],
  options: RowOptions,
) => (row: DataRow, index: number) => readonly TokenizedExample[];

/** The error for a row that cannot be used. */
export function rowError(index: number, { name }: TokenizeOptions, problem: string): ValueError {
  const row = name === undefined ? `Example ${index}` : `Row ${index + 1} of ${name}`;
  return new ValueError("DATA_EXAMPLE", `${row} ${problem}.`, { index });
}
