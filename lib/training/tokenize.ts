/**
 * From examples to tokens and what is learned of them.
 *
 * @module
 */
import { TrainingError, ValueError } from "../errors.ts";
import { isObject } from "../io/json.ts";
import { readsImages } from "../model/model-graph.ts";
import type { TaskType } from "../model/task-type.ts";
import { BOOLEAN, checkOptions, oneOf, type OptionRules, TEXT, wholeFrom } from "../options.ts";
import { causalRows } from "./causal-rows.ts";
import type { Example } from "./examples.ts";
import { createNotes, type DataNote } from "./notes.ts";
import type { DataRow } from "./read-table.ts";
import {
  LONG_ROWS,
  type RowRule,
  type TokenizedExample,
  type TokenizeOptions,
} from "./row-rule.ts";
import { answerRows, classRows, pairRows, rewrittenRows, taggedRows } from "./task-rows.ts";

/** What rows become by task. */
const ROW_RULES: Readonly<Record<TaskType, RowRule>> = {
  CAUSAL_LM: causalRows,
  SEQ_CLS: classRows,
  TOKEN_CLS: taggedRows,
  QUESTION_ANS: answerRows,
  SEQ_2_SEQ_LM: rewrittenRows,
  FEATURE_EXTRACTION: pairRows,
};

const LENGTH = {
  must: "a whole number from 2 on",
  holds: (x: unknown) => x === Infinity || wholeFrom(2).holds(x),
};

const TOKENIZE_RULES: OptionRules<TokenizeOptions> = {
  tokenizer: null,
  model: { must: "a model, as loadModel gives", holds: (x) => isObject(x) && "taskType" in x },
  columns: { must: "an object", holds: isObject },
  name: TEXT,
  folder: TEXT,
  maxLength: LENGTH,
  longRows: oneOf(LONG_ROWS),
  appendEos: BOOLEAN,
  stride: wholeFrom(0),
  labelAllTokens: BOOLEAN,
  sourcePrefix: TEXT,
  maxTargetLength: LENGTH,
};

/** Tokenized examples and what was noticed. */
export interface TokenizedData {
  /** What can be learned from. */
  readonly examples: readonly TokenizedExample[];
  /** The number of the row that each example is of, from 0. */
  readonly rows: readonly number[];
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
  examples: readonly (Example | DataRow)[],
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
  examples: readonly (Example | DataRow)[],
  options: TokenizeOptions,
): TokenizedData {
  checkOptions(options, TOKENIZE_RULES, { code: "DATA_OPTION", of: "tokenizeData" });
  const { tokenizer, model, maxLength = Infinity, longRows = "cut" } = options;
  if (!tokenizer && !(model && readsImages(model))) {
    throw new ValueError("DATA_OPTION", "tokenizeExamples needs a tokenizer; see tokenizerOf.");
  }
  const rule = ROW_RULES[model?.taskType ?? "CAUSAL_LM"];
  const { note, all } = createNotes();
  const found: TokenizedExample[] = [], rows: number[] = [], dropped = new Set<number>();
  const fates = { drop: "left out", refuse: "refused" };
  const exampleOf = rule(examples as unknown as readonly DataRow[], {
    ...options,
    tokenizer: tokenizer!,
    maxLength,
    longRows,
    note,
    tooLong(row, cut) {
      const fate = longRows === "cut" ? cut : fates[longRows];
      note(row, "TOO_LONG", (n) => `${n}: longer than ${maxLength} tokens, ${fate}.`, fate);
      if (longRows !== "cut") dropped.add(row);
    },
  });
  for (const [index, example] of (examples as unknown as readonly DataRow[]).entries()) {
    const own = exampleOf(example, index);
    found.push(...own);
    rows.push(...own.map(() => index));
    if (own.length || dropped.has(index)) continue;
    const within = maxLength === Infinity ? "" : ` in the first ${maxLength} tokens`;
    note(index, "NOTHING_TO_LEARN", (n) => `${n}: nothing to learn${within}, left out.`);
  }
  const notes = all();
  const refused = notes.filter(({ code }) => code === "TOO_LONG" || code === "NOTHING_TO_LEARN");
  if (longRows === "refuse" && refused.length) {
    throw new ValueError(
      "DATA_LENGTH",
      `Rows do not fit, and longRows is "refuse". ${refused.map((n) => n.message).join(" ")}`,
      { notes: refused },
    );
  }
  if (found.length === 0) throw nothingToLearn(examples.length, maxLength);
  return { examples: found, rows, notes };
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
