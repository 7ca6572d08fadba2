/**
 * `answer`: where in a text the answer to a question is.
 *
 * @module
 */
import type { AnyModel } from "../adapters/peft-model.ts";
import { ValueError } from "../errors.ts";
import { type EncodedRow, encodeInputs } from "../io/encode-inputs.ts";
import { isObject } from "../io/json.ts";
import { BOOLEAN, show, wholeFrom } from "../options.ts";
import { softmax } from "./softmax.ts";
import {
  byText,
  type InferenceOptions,
  likeGiven,
  listOf,
  openReader,
  runRows,
} from "./run-rows.ts";

/** A question about a text. */
export interface Question {
  /** What is asked. */
  readonly question: string;
  /** The text that the answer is looked for in. */
  readonly context: string;
}

/** How to answer. */
export interface AnswerOptions extends InferenceOptions {
  /**
   * The longest row of question and context in tokens; 384 by default, or what the model takes where
   * that is less. Longer contexts are read in windows.
   */
  readonly maxLength?: number;
  /** Tokens that two windows share; half a row, but 128 at most, by default. */
  readonly stride?: number;
  /** How many answers to give of each question; 1 by default. */
  readonly topK?: number;
  /** The longest answer in tokens; 15 by default. */
  readonly maxAnswerLength?: number;
  /** Whether that there is no answer, as `""`, is one of them; false by default. */
  readonly handleImpossibleAnswer?: boolean;
  /** Whether answers are made of whole words; true by default. */
  readonly alignToWords?: boolean;
}

/** An answer and where it is. */
export interface Answer {
  /** What the context says there; empty where there is no answer. */
  readonly answer: string;
  /** Probability of its first token times that of its last, over all places where they say this. */
  readonly score: number;
  /** UTF-16 position in the context where it begins. */
  readonly start: number;
  /** Where it ends. */
  readonly end: number;
}

/**
 * Answers questions by parts of a text with a QUESTION_ANS model, as the pipeline of transformers 4
 * does, which transformers 5 has no more. Answers that say the same are one, with their scores added up.
 *
 * @param model A model with or without adapters.
 * @param question The question and its context.
 * @param options See {@link AnswerOptions}.
 * @returns Answers, the one with the highest score first.
 * @throws {UnsupportedError} `TASK_MODEL` for a model of another task.
 * @throws {ValueError} `INFERENCE_OPTION`, `QUESTION`, or `ENCODE_LENGTH` for a question that
 * leaves the context no room.
 * @throws {FileError} `TOKENIZER_MISSING`.
 *
 * @example
 * ```ts
 * import { answer, byteTokenizerFiles, createModel, loadTokenizer } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "bert", vocab_size: 256, hidden_size: 16, intermediate_size: 24,
 *   num_hidden_layers: 1, num_attention_heads: 2,
 * }, { device: "cpu", taskType: "QUESTION_ANS" });
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const context = "Ada was born in London.";
 * const [best] = await answer(model, { question: "Where?", context }, { tokenizer });
 * console.log(context.slice(best.start, best.end) === best.answer); // true
 * model.device[Symbol.dispose]();
 * ```
 */
export function answer(
  model: AnyModel,
  question: Question,
  options?: AnswerOptions,
): Promise<readonly Answer[]>;
/** The same for several questions; results come in their order. */
export function answer(
  model: AnyModel,
  questions: readonly Question[],
  options?: AnswerOptions,
): Promise<readonly (readonly Answer[])[]>;
export async function answer(
  model: AnyModel,
  given: Question | readonly Question[],
  options: AnswerOptions = {},
): Promise<readonly Answer[] | readonly (readonly Answer[])[]> {
  const reader = await openReader(model, options, {
    of: "answer",
    task: "QUESTION_ANS",
    rules: {
      stride: wholeFrom(0),
      topK: wholeFrom(1),
      maxAnswerLength: wholeFrom(1),
      handleImpossibleAnswer: BOOLEAN,
      alignToWords: BOOLEAN,
    },
  });
  const { tokenizer, maxLength = Math.min(reader.limit, 384), topK = 1 } = reader;
  const { config } = tokenizer.files;
  // Whoever pads on the left has learned to read the context first.
  const first = config.padding_side !== "left";
  const questions = listOf(reader, given).map(checked);
  const rows = encodeInputs(
    questions.map(({ question, context }) =>
      first ? { text: question, pair: context } : { text: context, pair: question }
    ),
    {
      tokenizer,
      maxLength,
      truncation: first ? "only_second" : "only_first",
      stride: reader.stride ?? Math.min(Math.floor(maxLength / 2), 128),
    },
  );
  const outputs = await runRows(reader, rows, {
    key: "bounds",
    perToken: true,
    outputs: (_, { startLogits, endLogits }) => ({ startLogits, endLogits }),
  });
  const windows = byText(rows, outputs);
  const results = questions.map(({ context }, which) => {
    const found = new Map<string, Answer>();
    let none = Infinity;
    for (const [row, bounds] of windows.get(which) ?? []) {
      const { spans, noAnswer } = spansOf(row, bounds, {
        ...reader,
        contextId: first ? 1 : 0,
        clsId: tokenizer.clsId,
      });
      none = Math.min(none, noAnswer);
      for (const { score, start, end } of spans) {
        const answer = context.slice(start, end), key = answer.toLowerCase();
        const known = found.get(key) ?? { answer, score: 0, start, end };
        found.set(key, { ...known, score: known.score + score });
      }
    }
    if (reader.handleImpossibleAnswer) {
      found.set("", { answer: "", score: none, start: 0, end: 0 });
    }
    return [...found.values()].sort((a, b) => b.score - a.score).slice(0, topK);
  });
  return likeGiven(given, results);
}

function checked(one: unknown, row: number): Question {
  const isText = (x: unknown) => typeof x === "string" && x !== "";
  if (isObject(one) && isText(one.question) && isText(one.context)) return one as never;
  throw new ValueError(
    "QUESTION",
    `answer needs { question, context }, both texts that are not empty; found ${
      show(one)
    } for ${row}.`,
    { row },
  );
}

/** A part of a context that may be the answer. */
type Span = Omit<Answer, "answer">;

/** The most probable answers in one window, and the probability that it has none. */
function spansOf(
  row: EncodedRow,
  { startLogits, endLogits }: Readonly<Record<string, Float32Array>>,
  options: AnswerOptions & { readonly contextId: 0 | 1; readonly clsId: number | undefined },
): { readonly spans: readonly Span[]; readonly noAnswer: number } {
  const { topK = 1, maxAnswerLength = 15, alignToWords = true, contextId, clsId } = options;
  const counts = row.inputIds.map((id, i) => row.sequenceIds[i] === contextId || id === clsId);
  const [starts, ends] = [startLogits, endLogits].map((logits) =>
    softmax(logits.map((x, i) => counts[i] ? x : -10000))
  );
  const noAnswer = starts[0] * ends[0];
  // What stands for no answer is the first token.
  counts[0] = false;
  const spans: { score: number; from: number; to: number }[] = [];
  for (let from = 0; from < starts.length; from++) {
    if (!counts[from]) continue;
    for (let to = from; to < Math.min(from + maxAnswerLength, ends.length); to++) {
      const score = starts[from] * ends[to];
      if (counts[to] && score > 0) spans.push({ score, from, to });
    }
  }
  // Several may become one where they are made of whole words.
  const most = alignToWords ? topK * 2 + 10 : topK;
  return {
    noAnswer,
    spans: spans.sort((a, b) => b.score - a.score).slice(0, most).map(({ score, from, to }) => ({
      score,
      start: row.offsets[alignToWords ? wordEnd(row, from, "indexOf") : from][0],
      end: row.offsets[alignToWords ? wordEnd(row, to, "lastIndexOf") : to][1],
    })),
  };
}

/** The first or the last token of the word that a token is of. */
function wordEnd(row: EncodedRow, token: number, which: "indexOf" | "lastIndexOf"): number {
  const word = row.wordIds[token], text = row.sequenceIds[token];
  if (word === null) return token;
  return row.wordIds.map((id, i) => id === word && row.sequenceIds[i] === text)[which](true);
}
