/**
 * Beam search: of all texts that a model may write, those it finds most probable as a whole.
 *
 * @module
 */
import type { Decoder } from "./decoder.ts";
import { logProbabilities, type ScoreRule } from "./sampling.ts";

/** How beams are searched. */
export interface BeamOptions {
  /** Texts that are followed at a time. */
  readonly numBeams: number;
  /** The score of a text is the sum of its log-probabilities over its length to this power. */
  readonly lengthPenalty: number;
  /**
   * Whether a search ends as soon as it has so many texts that ended (`true`), when none that goes on
   * is likely to become better (`false`), or when none can (`"never"`).
   */
  readonly earlyStopping: boolean | "never";
  /** Ids that end a text. */
  readonly ends: ReadonlySet<number>;
  /** Changes log-probabilities of the next token by what stands before it. */
  readonly change: ScoreRule;
}

/** What is searched for one prompt. */
export interface BeamRow {
  /** Ids that count as written before, for penalties. */
  readonly before: readonly number[];
  /** The most tokens of a text. */
  readonly limit: number;
}

/** A text that was found. */
export interface Hypothesis {
  /** Its new tokens, an end token included. */
  readonly tokenIds: readonly number[];
  /** Its score; of a text that goes on, the sum of its log-probabilities. */
  readonly score: number;
}

/** One more token for a beam. */
interface Candidate {
  readonly beam: number;
  readonly tokenId: number;
  readonly score: number;
}

interface Search {
  running: readonly Hypothesis[];
  ended: readonly Hypothesis[];
  done: boolean;
}

/**
 * Searches each prompt's beams, as transformers does.
 *
 * @param decoder Has read each prompt `numBeams` times, one after the other.
 * @returns For each prompt the best texts, the best first; `numBeams` of them unless there are fewer.
 */
export async function searchBeams(
  decoder: Decoder,
  rows: readonly BeamRow[],
  options: BeamOptions & { readonly signal?: AbortSignal },
): Promise<readonly (readonly Hypothesis[])[]> {
  const { numBeams, signal } = options;
  // All beams are alike at first, so that only one is gone on from.
  const searches = rows.map((): Search => ({
    running: [{ tokenIds: [], score: 0 }],
    ended: [],
    done: false,
  }));
  const size = decoder.logits.length / (rows.length * numBeams);
  const fed = new Int32Array(rows.length * numBeams), from = fed.map((_, i) => i);
  for (;;) {
    searches.forEach((search, row) => {
      if (search.done) return;
      const first = row * numBeams;
      const scores = (beam: number) =>
        decoder.logits.subarray((first + beam) * size, (first + beam + 1) * size);
      const going = advance(search, rows[row], scores, options);
      going.forEach(({ beam, tokenId }, i) => {
        fed[first + i] = tokenId;
        from[first + i] = first + beam;
      });
    });
    if (searches.every(({ done }) => done)) return searches.map(({ ended }) => ended);
    signal?.throwIfAborted();
    await decoder.reorder(from);
    await decoder.step(fed);
    from.forEach((_, i) => from[i] = i);
  }
}

/** Goes on by one token; gives what the beams go on from. */
function advance(
  search: Search,
  { before, limit }: BeamRow,
  scoresOf: (beam: number) => Float32Array,
  options: BeamOptions,
): readonly Candidate[] {
  const { numBeams, lengthPenalty, earlyStopping, ends, change } = options;
  const { running } = search, length = running[0].tokenIds.length + 1;
  // So many that enough go on where those before all end.
  const wanted = Math.max(2, 1 + ends.size) * numBeams;
  const candidates = running.flatMap(({ tokenIds, score }, beam) => {
    const all = change(logProbabilities(scoresOf(beam)), [...before, ...tokenIds]);
    return highest(all, wanted).map((tokenId): Candidate => ({
      beam,
      tokenId,
      score: score + all[tokenId],
    }));
  }).sort((a, b) => b.score - a.score).slice(0, wanted);
  const isEnd = ({ tokenId }: Candidate) => ends.has(tokenId) || length >= limit;
  const text = ({ beam, tokenId, score }: Candidate, over = 1): Hypothesis => ({
    tokenIds: [...running[beam].tokenIds, tokenId],
    score: score / over,
  });
  search.ended = [
    ...search.ended,
    ...candidates.slice(0, numBeams).filter(isEnd).map((one) => text(one, length ** lengthPenalty)),
  ].sort((a, b) => b.score - a.score).slice(0, numBeams);
  const going = candidates.filter((one) => !isEnd(one)).slice(0, numBeams);
  search.running = going.map((one) => text(one));
  const farthest = earlyStopping === "never" && lengthPenalty > 0 ? limit : length;
  search.done = going.length === 0 || search.ended.length === numBeams && (
        earlyStopping === true ||
        going[0].score / farthest ** lengthPenalty <= search.ended[numBeams - 1].score
      );
  return going;
}

/** The places of the highest scores, the highest first. */
function highest(scores: Float32Array, count: number): number[] {
  const best: number[] = [];
  let least = -Infinity;
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id];
    if (score === -Infinity || best.length === count && score <= least) continue;
    let at = best.length;
    while (at > 0 && scores[best[at - 1]] < score) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
    least = scores[best[best.length - 1]];
  }
  return best;
}
