/**
 * From the scores of the next token to the token. The steps and their order are those of
 * transformers: repetition penalty, temperature, top-k, top-p.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { documented, numberIn, type OptionRules, POSITIVE, wholeFrom } from "../options.ts";

/**
 * How the scores of the next token are changed before one is drawn. Every step is off by default.
 */
export interface SamplingOptions {
  /** Leaves out tokens that would end a run of so many for the second time; 0 allows all. */
  readonly noRepeatNgramSize?: number;
  /**
   * Divides the scores of tokens that have occurred (multiplies them where they are negative); 1
   * does nothing (Keskar et al., 2019, arXiv:1909.05858).
   */
  readonly repetitionPenalty?: number;
  /** Divides the scores; above 1 flattens the distribution, below 1 sharpens it. */
  readonly temperature?: number;
  /** Keeps the k highest scores (and those equal to the lowest of them); 0 keeps all. */
  readonly topK?: number;
  /**
   * Keeps the fewest tokens, from the most probable on, whose probabilities sum up to this much; 1
   * keeps all (Holtzman et al., 2019, arXiv:1904.09751).
   */
  readonly topP?: number;
}

/** What the sampling options may be. */
export const SAMPLING_RULES: OptionRules<SamplingOptions> = {
  repetitionPenalty: documented(
    POSITIVE,
    "Divides the scores of tokens that have occurred (multiplies them where they are negative); 1 does nothing (Keskar et al., 2019, arXiv:1909.05858).",
  ),
  noRepeatNgramSize: documented(
    wholeFrom(0),
    "Leaves out tokens that would end a run of so many for the second time; 0 allows all.",
  ),
  temperature: POSITIVE,
  topK: documented(
    wholeFrom(0),
    "Keeps the k highest scores (and those equal to the lowest of them); 0 keeps all.",
  ),
  topP: documented(
    numberIn(0, 1),
    "Keeps the fewest tokens, from the most probable on, whose probabilities sum up to this much; 1 keeps all (Holtzman et al., 2019, arXiv:1904.09751).",
  ),
};

/**
 * The scores that a token is drawn from: changed by each step in turn, −∞ for tokens that are left
 * out.
 *
 * @param logits Scores [V]; stay as they are.
 * @param options What to change, and the ids that have occurred, in their order.
 *
 * @example
 * ```ts
 * import { drawToken, processLogits } from "@graft/peft";
 * const scores = processLogits(Float32Array.of(1, 5, 2), { topK: 2, temperature: 0.5 });
 * console.log(scores, drawToken(scores, 0.5)); // [-Infinity, 10, 4] 1
 * ```
 */
export function processLogits(
  logits: Float32Array,
  options: SamplingOptions & { readonly occurred?: Iterable<number> },
): Float32Array {
  const { repetitionPenalty = 1, temperature = 1, topK = 0, topP = 1 } = options;
  const { noRepeatNgramSize = 0 } = options, occurred = [...options.occurred ?? []];
  const scores = logits.slice();
  if (repetitionPenalty !== 1) {
    for (const id of new Set(occurred)) {
      scores[id] = scores[id] < 0 ? scores[id] * repetitionPenalty : scores[id] / repetitionPenalty;
    }
  }
  if (noRepeatNgramSize > 0) {
    const last = noRepeatNgramSize - 1, end = occurred.length - last;
    for (let at = 0; at + last < occurred.length; at++) {
      let same = 0;
      while (same < last && occurred[at + same] === occurred[end + same]) same++;
      if (same === last) scores[occurred[at + last]] = -Infinity;
    }
  }
  if (temperature !== 1) { for (let i = 0; i < scores.length; i++) scores[i] /= temperature; }
  if (topK > 0 && topK < scores.length) keepTopK(scores, topK);
  if (topP < 1) keepTopP(scores, topP);
  return scores;
}

/** Changes the scores of the next token by what stands before it. */
export type ScoreRule = (scores: Float32Array, occurred: readonly number[]) => Float32Array;

/**
 * Logarithms of the probabilities of scores.
 *
 * @throws {ValueError} `LOGITS_NOT_FINITE`.
 */
export function logProbabilities(logits: Float32Array): Float32Array {
  const top = logits[argmax(logits)];
  let total = 0;
  for (const x of logits) total += Math.exp(x - top);
  const over = top + Math.log(total);
  return logits.map((x) => x - over);
}

function keepTopK(scores: Float32Array, k: number): void {
  const next = descending(scores);
  for (let i = 1; i < k; i++) next();
  const lowest = scores[next()];
  for (let i = 0; i < scores.length; i++) if (scores[i] < lowest) scores[i] = -Infinity;
}

function keepTopP(scores: Float32Array, p: number): void {
  const next = descending(scores);
  const kept = scores.slice().fill(-Infinity);
  const best = next();
  const top = scores[best];
  let total = 0;
  for (const score of scores) total += Math.exp(score - top);
  // A token stays when those above it have not reached p yet; the first one always does.
  kept[best] = top;
  for (let above = 1 / total; above < p;) {
    const id = next();
    if (id < 0 || scores[id] === -Infinity) break;
    kept[id] = scores[id];
    above += Math.exp(scores[id] - top) / total;
  }
  scores.set(kept);
}

/**
 * Gives the indices of scores from the highest on, one each call, then −1; of equal ones the lower
 * index first. A heap, so that a few of many are cheap.
 */
function descending(scores: Float32Array): () => number {
  const heap = Int32Array.from(scores, (_, i) => i);
  let size = heap.length;
  const before = (a: number, b: number) =>
    scores[a] > scores[b] || (scores[a] === scores[b] && a < b);
  const sink = (at: number) => {
    const moved = heap[at];
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && before(heap[child + 1], heap[child])) child++;
      if (!before(heap[child], moved)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = moved;
  };
  for (let i = (size >> 1) - 1; i >= 0; i--) sink(i);
  return () => {
    if (size === 0) return -1;
    const top = heap[0];
    heap[0] = heap[--size];
    if (size > 0) sink(0);
    return top;
  };
}

/**
 * The index of the highest score, the first of equal ones.
 *
 * @throws {ValueError} `LOGITS_NOT_FINITE` where the highest score is not a finite number.
 *
 * @example
 * ```ts
 * import { argmax } from "@graft/peft";
 * console.log(argmax([1, 5, 2])); // 1
 * ```
 */
export function argmax(scores: ArrayLike<number>): number {
  let best = -1;
  let top = -Infinity;
  for (let i = 0; i < scores.length; i++) {
    if (scores[i] > top) {
      top = scores[i];
      best = i;
    }
  }
  if (!Number.isFinite(top)) {
    throw new ValueError(
      "LOGITS_NOT_FINITE",
      `The model's highest score is ${best < 0 ? "NaN or −∞" : "∞"}. ` +
        "Its weights, or an adapter's, are damaged or have diverged.",
    );
  }
  return best;
}

/**
 * Draws an index with the probabilities softmax(scores).
 *
 * @param scores Scores [V]; those of −∞ are never drawn.
 * @param uniform A random number from 0 up to, but not including, 1.
 * @throws {ValueError} `LOGITS_NOT_FINITE` where the highest score is not a finite number.
 *
 * @example
 * ```ts
 * import { drawToken } from "@graft/peft";
 * console.log(drawToken([0, -Infinity, 0], 0.75)); // 2
 * ```
 */
export function drawToken(scores: ArrayLike<number>, uniform: number): number {
  const best = argmax(scores);
  const top = scores[best];
  let total = 0;
  for (let i = 0; i < scores.length; i++) total += weight(scores[i], top);
  let left = uniform * total;
  let last = best;
  for (let i = 0; i < scores.length; i++) {
    const w = weight(scores[i], top);
    if (w === 0) continue;
    if (left < w) return i;
    left -= w;
    last = i;
  }
  return last; // rounding used up the whole sum
}

function weight(score: number, top: number): number {
  return score > -Infinity ? Math.exp(score - top) : 0;
}
