/**
 * From examples to batches: tokens with labels, rows that are padded or packed.
 *
 * @module
 */
import { TrainingError, ValueError } from "../errors.ts";
import type { ChatMessage } from "../io/chat-template.ts";
import { renderChat } from "../io/render-chat.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { BOOLEAN, checkOptions, type OptionRules, WHOLE, wholeFrom } from "../options.ts";
import { randomOrder } from "../tensor/random.ts";
import type { TrainingBatch } from "./batch.ts";
import { type Example, problemOf } from "./examples.ts";

/** Tokens and what is learned of them. */
export interface TokenizedExample {
  /** Token ids. */
  readonly ids: readonly number[];
  /** The ids that are learned, and −100 for those that are only given. Not shifted. */
  readonly labels: readonly number[];
}

/** How examples become tokens. */
export interface TokenizeOptions {
  /** Reads text. */
  readonly tokenizer: Tokenizer;
  /**
   * Longer texts are cut into several examples of this many tokens; longer completions and chats
   * lose their end.
   */
  readonly maxLength?: number;
  /**
   * Whether the end-of-text token is put after texts and completions, and learned; true by default.
   */
  readonly appendEos?: boolean;
}

/**
 * The tokens of examples and the labels that belong to them: all of a text, the completion of a
 * prompt, the assistant's turns of a chat, each turn with the tokens that the template ends it
 * with.
 *
 * A chat whose template writes earlier turns differently once later ones follow (as those do that
 * drop a turn's reasoning) becomes one example for each of the assistant's turns.
 *
 * @throws {TrainingError} `DATASET_EMPTY` where no token is left to learn.
 * @throws {ValueError} `CHAT_TEMPLATE_MISSING` for chats without a template, `DATA_EXAMPLE` for
 * what is no example, `DATA_OPTION`.
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
  checkOptions(options, {
    tokenizer: null,
    maxLength: {
      must: "a whole number from 2 on",
      holds: (x) => x === Infinity || wholeFrom(2).holds(x),
    },
    appendEos: BOOLEAN,
  }, { code: "DATA_OPTION", of: "tokenizeExamples" });
  if (!options.tokenizer) {
    throw new ValueError("DATA_OPTION", "tokenizeExamples needs a tokenizer; see tokenizerOf.");
  }
  const { maxLength = Infinity } = options;
  for (const [i, example] of examples.entries()) {
    const problem = problemOf(example);
    if (problem) throw new ValueError("DATA_EXAMPLE", `Example ${i} ${problem}.`, { index: i });
  }
  const tokenized: TokenizedExample[] = [];
  for (const example of examples) {
    for (const { ids, labels } of tokenize(example, options)) {
      const end = "text" in example ? ids.length : Math.min(ids.length, maxLength);
      for (let start = 0; start < end; start += maxLength) {
        const cut = {
          ids: ids.slice(start, start + maxLength),
          labels: labels.slice(start, start + maxLength),
        };
        // The first token is predicted by nothing.
        if (cut.labels.some((label, i) => i > 0 && label !== IGNORED_LABEL)) tokenized.push(cut);
      }
    }
  }
  if (tokenized.length === 0) {
    throw new TrainingError(
      "DATASET_EMPTY",
      examples.length === 0
        ? "There is nothing to train on: the data set holds no example."
        : `None of the ${examples.length} examples has a token to learn${
          maxLength === Infinity ? "" : ` within its first ${maxLength}`
        }: they are empty, or their prompts take up all the room.`,
      { examples: examples.length },
    );
  }
  return tokenized;
}

interface Piece {
  readonly ids: readonly number[];
  readonly learned: boolean;
}

function tokenize(example: Example, options: TokenizeOptions): TokenizedExample[] {
  const { tokenizer, appendEos = true } = options;
  const end = appendEos && tokenizer.eosId !== undefined ? [tokenizer.eosId] : [];
  const ended = (ids: readonly number[]) => ids[ids.length - 1] === end[0] ? ids : [...ids, ...end];
  if ("messages" in example) return tokenizeChat(example.messages, tokenizer);
  if ("prompt" in example) {
    // Apart, as the prompt will stand alone when the model is used.
    const prompt = withoutEnd(tokenizer.encode(example.prompt), tokenizer);
    const completion = tokenizer.encode(example.completion, { addSpecialTokens: false });
    return [join([{ ids: prompt, learned: false }, { ids: ended(completion), learned: true }])];
  }
  return [join([{ ids: ended(tokenizer.encode(example.text)), learned: true }])];
}

/** Some tokenizers end each text; a prompt goes on. */
function withoutEnd(ids: readonly number[], tokenizer: Tokenizer): readonly number[] {
  return ids.length && ids[ids.length - 1] === tokenizer.eosId ? ids.slice(0, -1) : ids;
}

function join(pieces: readonly Piece[]): TokenizedExample {
  return {
    ids: pieces.flatMap((piece) => piece.ids),
    labels: pieces.flatMap(({ ids, learned }) =>
      learned ? ids : new Array<number>(ids.length).fill(IGNORED_LABEL)
    ),
  };
}

function tokenizeChat(messages: readonly ChatMessage[], tokenizer: Tokenizer): TokenizedExample[] {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const turns = messages.flatMap(({ role }, i) => {
    if (role !== "assistant") return [];
    const before = renderChat(tokenizer, messages.slice(0, i), { addGenerationPrompt: true });
    const after = renderChat(tokenizer, messages.slice(0, i + 1));
    if (!after.startsWith(before)) {
      throw new ValueError(
        "CHAT_TEMPLATE",
        `The chat template does not begin the assistant's turn (message ${
          i + 1
        }) with what it writes as the generation prompt, ` +
          "so it cannot be told which tokens are the assistant's. Give the data as prompt and completion.",
        { message: i + 1 },
      );
    }
    return [{ before, after, answer: after.slice(before.length) }];
  });
  const grows = turns.every(({ before }, i) => i === 0 || before.startsWith(turns[i - 1].after));
  if (!grows) {
    return turns.map(({ before, answer }) =>
      join([{ ids: encode(before), learned: false }, { ids: encode(answer), learned: true }])
    );
  }
  return [join(turns.flatMap(({ before, answer }, i) => {
    const given = before.slice(i === 0 ? 0 : turns[i - 1].after.length);
    return [{ ids: encode(given), learned: false }, { ids: encode(answer), learned: true }];
  }))];
}

/** How tokenized examples become batches. */
export interface BatchOptions {
  /** Rows in a batch; the last batch may have fewer. */
  readonly batchSize: number;
  /** Shuffles examples with this seed; they keep their order without it. */
  readonly seed?: number;
  /** Which pass over the data, from 0; each has an order of its own. */
  readonly epoch?: number;
}

const BATCH_RULES: OptionRules<BatchOptions> = {
  batchSize: null, // checked where rows are dealt out
  seed: WHOLE,
  epoch: wholeFrom(0),
};

/**
 * One example in each row, padded on the right to the length of the longest in the batch, rounded
 * up so that few programs are compiled.
 *
 * @param examples From {@link tokenizeExamples}.
 * @param options `multipleOf` is what lengths are rounded up to (16 by default), `padId` what
 * padding holds (0 by default).
 *
 * @example
 * ```ts
 * import { padExamples } from "@graft/peft";
 * const examples = [{ ids: [1, 2], labels: [-100, 2] }];
 * console.log(padExamples(examples, { batchSize: 1, multipleOf: 4 })[0].labels);
 * // [[-100, 2, -100, -100]]
 * ```
 */
export function padExamples(
  examples: readonly TokenizedExample[],
  options: BatchOptions & { readonly multipleOf?: number; readonly padId?: number },
): TrainingBatch[] {
  checkOptions(options, { ...BATCH_RULES, multipleOf: wholeFrom(1), padId: wholeFrom(0) }, {
    code: "DATA_OPTION",
    of: "padExamples",
  });
  const { multipleOf = 16, padId = 0 } = options;
  return batched(shuffled(examples, options), options.batchSize).map((rows) => {
    const longest = Math.max(...rows.map((row) => row.ids.length));
    const length = Math.ceil(longest / multipleOf) * multipleOf;
    const filled = (row: readonly number[], value: number) => [
      ...row,
      ...new Array<number>(length - row.length).fill(value),
    ];
    return {
      inputIds: rows.map((row) => filled(row.ids, padId)),
      attentionMask: rows.map((row) => filled(row.ids.map(() => 1), 0)),
      labels: rows.map((row) => filled(row.labels, IGNORED_LABEL)),
    };
  });
}

/**
 * Several examples in each row of `length` tokens, one after the other. `segments` numbers them
 * from 1 (padding is 0), so that they do not see each other, and positions begin at 0 in each.
 * Examples stay whole; each goes into the first row that has room.
 *
 * @param examples From {@link tokenizeExamples}.
 * @param options `length` of a row; `padId` is what padding holds (0 by default).
 * @throws {ValueError} `DATA_LENGTH` for an example that is longer than a row.
 *
 * @example
 * ```ts
 * import { packExamples } from "@graft/peft";
 * const examples = [{ ids: [1, 2], labels: [1, 2] }, { ids: [3, 4], labels: [3, 4] }];
 * console.log(packExamples(examples, { batchSize: 1, length: 5 })[0].segments);
 * // [[1, 1, 2, 2, 0]]
 * ```
 */
export function packExamples(
  examples: readonly TokenizedExample[],
  options: BatchOptions & { readonly length: number; readonly padId?: number },
): TrainingBatch[] {
  checkOptions(options, { ...BATCH_RULES, length: wholeFrom(2), padId: wholeFrom(0) }, {
    code: "DATA_OPTION",
    of: "packExamples",
  });
  const { length, padId = 0 } = options;
  const rows: { ids: number[]; labels: number[]; segments: number[]; positions: number[] }[] = [];
  // The first row with so much room is looked for among those that are not full.
  let open = 0;
  for (const { ids, labels } of shuffled(examples, options)) {
    const count = ids.length;
    if (count > length) {
      throw new ValueError(
        "DATA_LENGTH",
        `An example of ${count} tokens does not fit into rows of ${length}. Tokenize with maxLength ${length}, or pack longer rows.`,
        { count, length },
      );
    }
    let at = open;
    while (at < rows.length && rows[at].ids.length + count > length) at++;
    const row = rows[at] ??= { ids: [], labels: [], segments: [], positions: [] };
    const segment = (row.segments[row.segments.length - 1] ?? 0) + 1;
    for (let i = 0; i < count; i++) {
      row.ids.push(ids[i]);
      row.labels.push(i === 0 ? IGNORED_LABEL : labels[i]);
      row.segments.push(segment);
      row.positions.push(i);
    }
    while (open < rows.length && rows[open].ids.length > length - 2) open++;
  }
  for (const row of rows) {
    while (row.ids.length < length) {
      row.ids.push(padId);
      row.labels.push(IGNORED_LABEL);
      row.segments.push(0);
      row.positions.push(0);
    }
  }
  return batched(rows, options.batchSize).map((some) => ({
    inputIds: some.map((row) => row.ids),
    labels: some.map((row) => row.labels),
    segments: some.map((row) => row.segments),
    positionIds: some.map((row) => row.positions),
  }));
}

function shuffled(
  examples: readonly TokenizedExample[],
  options: BatchOptions,
): readonly TokenizedExample[] {
  if (examples.length === 0) {
    throw new TrainingError(
      "DATASET_EMPTY",
      "There is nothing to train on: the data set holds no example.",
    );
  }
  const { seed, epoch = 0 } = options;
  if (seed === undefined) return examples;
  return randomOrder(examples.length, { seed, stream: epoch }).map((i) => examples[i]);
}

function batched<T>(rows: readonly T[], size: number): T[][] {
  if (!Number.isInteger(size) || size < 1) {
    throw new ValueError("BATCH_SIZE", `batchSize must be a whole number above 0, not ${size}.`);
  }
  const batches: T[][] = [];
  for (let i = 0; i < rows.length; i += size) batches.push(rows.slice(i, i + size));
  return batches;
}
