/**
 * `tag`: what the words of texts are.
 *
 * @module
 */
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import {
  type EncodedRow,
  encodeInputs,
  type TextOrWords,
  type TextRow,
} from "../io/encode-inputs.ts";
import { isObject } from "../io/json.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { labelNames } from "../model/label-count.ts";
import { oneOf, rule, wholeFrom } from "../options.ts";
import { ValueError } from "../errors.ts";
import { softmax } from "./softmax.ts";
import {
  byText,
  type InferenceOptions,
  likeGiven,
  listOf,
  openReader,
  runRows,
} from "./run-rows.ts";

/**
 * What becomes of tokens: each for itself (`none`), neighbours of one kind together (`simple`), or
 * first all tokens of a word as one, by its first token, by the mean of their probabilities or by the
 * surest of them.
 */
export type Aggregation = "none" | "simple" | "first" | "average" | "max";

/** How to tag. */
export interface TagOptions extends InferenceOptions {
  /** What becomes of tokens; `none` by default, as in transformers. */
  readonly aggregation?: Aggregation;
  /** Labels that are left out; `["O"]` by default. */
  readonly ignoreLabels?: readonly string[];
  /**
   * Reads texts that are longer than `maxLength` (what the model takes, by default) in windows which
   * share so many tokens; needs an aggregation. Without it they are refused, or cut at `maxLength`.
   */
  readonly stride?: number;
}

/** A part of a text and what it is. */
export interface Entity {
  /** The label of a token; of several that were put together without its `B-` or `I-`. */
  readonly entity: string;
  /** Its probability; the mean where several were put together. */
  readonly score: number;
  /** What the text says there. */
  readonly word: string;
  /** UTF-16 position in the text (words joined by spaces, where words were given) where it begins. */
  readonly start: number;
  /** Where it ends. */
  readonly end: number;
  /** Index of the token in its row, where each is for itself. */
  readonly index?: number;
}

/** A part of a text with the probabilities of all labels, or the one that it got. */
interface Piece {
  readonly start: number;
  readonly end: number;
  readonly index: number;
  readonly scores: Float64Array;
  /** Whether it goes on in the word of the one before. */
  readonly goesOn: boolean;
}

/**
 * Finds entities in texts with a TOKEN_CLS model.
 *
 * @param model A model with or without adapters.
 * @param text A text, or `{ text: words }`.
 * @param options See {@link TagOptions}.
 * @returns Entities in the order of the text.
 * @throws {UnsupportedError} `TASK_MODEL` for a model of another task.
 * @throws {ValueError} `INFERENCE_OPTION`, `TEXT_LENGTH`, `TEXT_EMPTY`, or for what is no text.
 * @throws {FileError} `TOKENIZER_MISSING`.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, createModel, loadTokenizer, tag } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "bert", vocab_size: 256, hidden_size: 16, intermediate_size: 24,
 *   num_hidden_layers: 1, num_attention_heads: 2, id2label: { 0: "I-PER", 1: "I-LOC" },
 * }, { device: "cpu", taskType: "TOKEN_CLS" });
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const entities = await tag(model, "Ada in Rome", { tokenizer, aggregation: "simple" });
 * console.log(entities.map(({ word }) => word).join("")); // Ada in Rome
 * model.device[Symbol.dispose]();
 * ```
 */
export function tag(
  model: AnyModel,
  text: TextRow,
  options?: TagOptions,
): Promise<readonly Entity[]>;
/** The same for several texts; results come in their order. */
export function tag(
  model: AnyModel,
  texts: readonly TextRow[],
  options?: TagOptions,
): Promise<readonly (readonly Entity[])[]>;
export async function tag(
  model: AnyModel,
  given: TextRow | readonly TextRow[],
  options: TagOptions = {},
): Promise<readonly Entity[] | readonly (readonly Entity[])[]> {
  const reader = await openReader(model, options, {
    of: "tag",
    task: "TOKEN_CLS",
    rules: {
      aggregation: oneOf(["none", "simple", "first", "average", "max"]),
      ignoreLabels: rule("a list of labels", Array.isArray),
      stride: wholeFrom(0),
    },
  });
  const { tokenizer, stride, limit, aggregation = "none", ignoreLabels = ["O"] } = reader;
  if (stride !== undefined && aggregation === "none") {
    throw new ValueError(
      "INFERENCE_OPTION",
      'A stride makes windows whose entities are put together, and aggregation is "none". Give another.',
    );
  }
  const maxLength = reader.maxLength ?? (stride === undefined ? undefined : finite(limit));
  const texts = listOf(reader, given), names = labelNames(baseOf(model).config);
  const rows = encodeInputs(texts, { tokenizer, maxLength, stride });
  const outputs = await runRows(reader, rows, {
    key: "logits",
    perToken: true,
    outputs: (_, { logits }) => ({ logits }),
  });
  const rowsOf = byText(rows, outputs);
  const results = texts.map((one, which) => {
    const text = typeof one === "string" ? one : one.text;
    const whole = typeof text === "string" ? text : text.join(" ");
    const windows = (rowsOf.get(which) ?? []).map(([encoded, { logits }]) => {
      const pieces = piecesOf(encoded, { text, whole, tokenizer, logits });
      return entitiesOf(pieces, aggregation, names);
    });
    const kept = windows.flat().filter(({ entity }) => !ignoreLabels.includes(entity))
      .map((entity) => ({ ...entity, word: whole.slice(entity.start, entity.end) }));
    return windows.length > 1 ? withoutOverlaps(kept) : kept;
  });
  return likeGiven(given, results);
}

function finite(limit: number): number | undefined {
  return limit === Infinity ? undefined : limit;
}

/** The tokens of the first text of a row. */
function piecesOf(
  row: EncodedRow,
  { text, whole, tokenizer, logits }: {
    readonly text: TextOrWords;
    readonly whole: string;
    readonly tokenizer: Tokenizer;
    readonly logits: Float32Array;
  },
): Piece[] {
  const labels = logits.length / row.inputIds.length;
  const before = typeof text === "string" ? [] : wordStarts(text);
  const spelled = continues(tokenizer);
  return row.inputIds.flatMap((id, index) => {
    if (row.sequenceIds[index] !== 0) return [];
    const from = before[row.wordIds[index] ?? 0] ?? 0;
    const [start, end] = row.offsets[index].map((at) => from + at);
    const said = [...whole.slice(start, end)].length;
    const goesOn = id !== tokenizer.unkId &&
      (spelled
        ? [...tokenizer.idToToken(id) ?? ""].length !== said
        : start > 0 && !whole.slice(start - 1, start + 1).includes(" "));
    const scores = softmax(logits.slice(index * labels, (index + 1) * labels));
    return [{ start, end, index, scores, goesOn }];
  });
}

/** Where each word begins in all of them with spaces between. */
function wordStarts(words: readonly string[]): number[] {
  let at = 0;
  return words.map((word) => (at += word.length + 1) - word.length - 1);
}

/** Whether tokens are spelled in a way that shows which go on in a word; else spaces have to. */
function continues({ files: { tokenizer: { model } } }: Tokenizer): boolean {
  return isObject(model) &&
    !!(model.continuing_subword_prefix ?? (model.type === "WordPiece" ? "##" : ""));
}

type Found = Omit<Entity, "word">;

function entitiesOf(
  pieces: readonly Piece[],
  aggregation: Aggregation,
  names: readonly string[],
): Found[] {
  const named = ({ start, end, index }: Piece, scores: Float64Array): Found => {
    const best = argmax(scores);
    return { entity: names[best], score: scores[best], start, end, index };
  };
  if (aggregation === "none") return pieces.map((piece) => named(piece, piece.scores));
  if (aggregation === "simple") return together(pieces.map((p) => named(p, p.scores)));
  const words: Piece[][] = [];
  for (const piece of pieces) {
    if (piece.goesOn && words.length) words[words.length - 1].push(piece);
    else words.push([piece]);
  }
  return together(
    words.map((word) =>
      named({ ...word[0], end: word[word.length - 1].end }, WORD_SCORES[aggregation](word))
    ),
  );
}

/** The probabilities of a word's labels from those of its tokens. */
const WORD_SCORES = {
  first: ([{ scores }]: readonly Piece[]) => scores,
  max: (word: readonly Piece[]) =>
    word.map(({ scores }) => scores).reduce((a, b) => b[argmax(b)] > a[argmax(a)] ? b : a),
  average: (word: readonly Piece[]) =>
    word[0].scores.map((_, label) =>
      word.reduce((sum, { scores }) => sum + scores[label], 0) / word.length
    ),
};

/** Neighbours with one label as one, a new one where one begins with `B-`. */
function together(entities: readonly Found[]): Found[] {
  const groups: Found[][] = [];
  for (const one of entities) {
    const last = groups.at(-1);
    const joins = last && !one.entity.startsWith("B-") &&
      kindOf(last[last.length - 1].entity) === kindOf(one.entity);
    if (joins) last.push(one);
    else groups.push([one]);
  }
  return groups.map((group) => ({
    entity: group[0].entity.replace(/^[^-]*-/, ""),
    score: group.reduce((sum, { score }) => sum + score, 0) / group.length,
    start: group[0].start,
    end: group[group.length - 1].end,
  }));
}

function kindOf(entity: string): string {
  return entity.replace(/^[BI]-/, "");
}

/** Of entities of several windows that overlap, the longest, and of those the surest. */
function withoutOverlaps(entities: readonly Entity[]): Entity[] {
  const kept: Entity[] = [];
  for (const one of [...entities].sort((a, b) => a.start - b.start)) {
    const last = kept.at(-1);
    if (!last || one.start >= last.end) kept.push(one);
    else {
      const longer = (one.end - one.start) - (last.end - last.start);
      if (longer > 0 || longer === 0 && one.score > last.score) kept[kept.length - 1] = one;
    }
  }
  return kept;
}

function argmax(scores: Float64Array): number {
  return scores.reduce((best, score, i) => score > scores[best] ? i : best, 0);
}
