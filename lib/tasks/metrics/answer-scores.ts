/**
 * How well questions were answered.
 *
 * @module
 */
import { pairCount, ratio } from "./class-scores.ts";

/** What {@link answerScores} gives, in percent. */
export interface AnswerScores {
  /** Answers that are exactly right, but for case, punctuation and articles. */
  readonly exactMatch: number;
  /** Mean F1 of the answers' words. */
  readonly f1: number;
  /** The first of questions that have an answer, where others have none. */
  readonly answeredExactMatch?: number;
  /** F1 of questions that have an answer, where others have none. */
  readonly answeredF1?: number;
  /** Questions without an answer that got none. */
  readonly unanswerable?: number;
}

/**
 * Exact matches and F1 of answers, as SQuAD measures them; of a question with several right answers
 * the nearest counts. Where questions have none, both are told apart, as in SQuAD 2.
 *
 * @param predicted The answer to each question; the empty text for none.
 * @param expected All right answers to each; an empty list where there are none.
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 *
 * @example
 * ```ts
 * import { answerScores } from "@graft/peft";
 * console.log(answerScores(["the Eiffel tower"], [["Eiffel Tower", "tower of Eiffel"]]).exactMatch); // 100
 * ```
 */
export function answerScores(
  predicted: readonly string[],
  expected: readonly (readonly string[])[],
): AnswerScores {
  pairCount(predicted, expected);
  const all = expected.map((answers, i) => {
    const own = wordsOf(predicted[i]);
    const given = answers.map(wordsOf).filter((words) => words.length);
    const right = given.length ? given : [[]];
    const best = (of: (words: readonly string[]) => number) => Math.max(...right.map(of));
    return {
      has: answers.length > 0,
      exact: best((words) => words.join(" ") === own.join(" ") ? 100 : 0),
      f1: best((words) => 100 * overlap(own, words)),
    };
  });
  const [some, none] = [all.filter(({ has }) => has), all.filter(({ has }) => !has)];
  const mean = (of: "exact" | "f1", rows: typeof all) =>
    ratio(rows.reduce((sum, row) => sum + row[of], 0), rows.length);
  return {
    exactMatch: mean("exact", all),
    f1: mean("f1", all),
    ...none.length && {
      answeredExactMatch: mean("exact", some),
      answeredF1: mean("f1", some),
      unanswerable: mean("exact", none),
    },
  };
}

/** ASCII's punctuation, which goes without leaving a space. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g;
const ARTICLES = /(?<![\p{L}\p{N}])(a|an|the)(?![\p{L}\p{N}])/gu;

function wordsOf(text: string): string[] {
  const plain = text.toLowerCase().replace(PUNCTUATION, "").replace(ARTICLES, " ");
  return plain.split(/\s+/).filter((word) => word !== "");
}

function overlap(a: readonly string[], b: readonly string[]): number {
  if (!a.length || !b.length) return a.length === b.length ? 1 : 0;
  return 2 * commonCount(a, b) / (a.length + b.length);
}

/** How many of two lists are the same, each counted as often as in both. */
export function commonCount(a: readonly string[], b: readonly string[]): number {
  const left = new Map<string, number>();
  for (const x of b) left.set(x, (left.get(x) ?? 0) + 1);
  return a.filter((x) => {
    const n = left.get(x) ?? 0;
    left.set(x, n - 1);
    return n > 0;
  }).length;
}
