/**
 * How near written texts came to those that were asked for.
 *
 * @module
 */
import { commonCount } from "./answer-scores.ts";
import { pairCount, ratio } from "./class-scores.ts";

/** What {@link rougeScores} gives: means of F1, from 0 to 1. */
export interface RougeScores {
  /** By words. */
  readonly rouge1: number;
  /** By pairs of words. */
  readonly rouge2: number;
  /** By the longest common subsequence of words. */
  readonly rougeL: number;
  /** The same by lines. */
  readonly rougeLsum: number;
}

/**
 * ROUGE of texts against one reference each, as in `rouge_score` without stemming.
 *
 * @param predicted What was written.
 * @param expected The references.
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 *
 * @example
 * ```ts
 * import { rougeScores } from "@graft/peft";
 * const { rouge1 } = await rougeScores(["The cat sat."], ["the cat sat down"]);
 * console.log(rouge1.toFixed(3)); // 0.857
 * ```
 */
export async function rougeScores(
  predicted: readonly string[],
  expected: readonly string[],
): Promise<RougeScores> {
  pairCount(predicted, expected);
  const { l, n } = await import("js-rouge"); // most runs write no texts
  const mean = (of: (text: string, reference: string) => number) =>
    ratio(
      expected.reduce((sum, reference, i) => {
        const texts = [predicted[i], reference];
        return sum + (texts.every((text) => wordsOf(text).length) ? of(texts[0], reference) : 0);
      }, 0),
      expected.length,
    );
  const words = { tokenizer: wordsOf };
  return {
    rouge1: mean((a, b) => n(a, b, { ...words, n: 1 })),
    rouge2: mean((a, b) => n(a, b, { ...words, n: 2 })),
    rougeL: mean((a, b) => l(a, b, { ...words, segmenter: (text) => [text] })),
    rougeLsum: mean((a, b) => l(a, b, { ...words, segmenter: linesOf })),
  };
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
}

function linesOf(text: string): string[] {
  return text.split("\n").filter((line) => wordsOf(line).length);
}

/**
 * BLEU of a corpus against one reference for each text, from 0 to 100, as in `sacrebleu` by default:
 * up to four words, tokenized as by `mteval-v13a`, with exponential smoothing.
 *
 * @param predicted What was written.
 * @param expected The references.
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 *
 * @example
 * ```ts
 * import { bleuScore } from "@graft/peft";
 * console.log(bleuScore(["The cat sat on a mat."], ["The cat sat on the mat."]).toFixed(1)); // 43.5
 * ```
 */
export function bleuScore(predicted: readonly string[], expected: readonly string[]): number {
  pairCount(predicted, expected);
  const pairs = predicted.map((text, i) => [text, expected[i]].map(mtevalTokens));
  const [own, wanted] = [0, 1].map((of) => pairs.reduce((sum, pair) => sum + pair[of].length, 0));
  let smooth = 1, logs = 0, some = false;
  for (let size = 1; size <= 4; size++) {
    const grams = pairs.map((pair) => pair.map((tokens) => gramsOf(tokens, size)));
    const hits = grams.reduce((sum, [a, b]) => sum + commonCount(a, b), 0);
    const total = grams.reduce((sum, [a]) => sum + a.length, 0);
    if (total === 0) return 0;
    some ||= hits > 0;
    logs += Math.log(hits > 0 ? hits / total : 1 / ((smooth *= 2) * total));
  }
  const brevity = own < wanted ? Math.exp(1 - wanted / own) : 1;
  return some ? 100 * brevity * Math.exp(logs / 4) : 0;
}

function gramsOf(tokens: readonly string[], size: number): string[] {
  return tokens.slice(size - 1).map((_, i) => tokens.slice(i, i + size).join(" "));
}

const ENTITIES = { "&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">" };

/** Words and marks; full stops and commas stay in numbers, and hyphens but for those after digits. */
function mtevalTokens(text: string): string[] {
  let line = text.replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
  for (const [code, mark] of Object.entries(ENTITIES)) line = line.replaceAll(code, mark);
  return ` ${line} `
    .replace(/[ -&(-+:-@/[-`{-~]/g, " $& ")
    .replace(/([^0-9])([.,])/g, "$1 $2 ")
    .replace(/([.,])([^0-9])/g, " $1 $2")
    .replace(/([0-9])-/g, "$1 - ")
    .split(/\s+/).filter((token) => token !== "");
}
