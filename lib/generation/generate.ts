/**
 * `generate` and `generateStream`: text from a model.
 *
 * @module
 */
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { FileError, ValueError } from "../errors.ts";
import { createDecodeStream } from "../io/decode-stream.ts";
import { tokenizerOf } from "../io/model-tokenizer.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { writtenSequence } from "../model/model-graph.ts";
import { checkOptions } from "../options.ts";
import { randomUniform } from "../tensor/random.ts";
import { searchBeams } from "./beam-search.ts";
import { decoderStart, openDecoder } from "./decoder.ts";
import { GENERATE_RULES, type GenerateOptions } from "./generate-options.ts";
import {
  checkPrompts,
  endIds,
  isPrompt,
  maxPositionsOf,
  type Prompt,
  promptIds,
} from "./prompt.ts";
import { argmax, drawToken, processLogits } from "./sampling.ts";
import { createStopScanner } from "./stop-scanner.ts";

/** Why a text ended: an end token, a stop string, or no more tokens were allowed. */
export type FinishReason = "eos" | "stop" | "length";

/** A generated text. */
export interface Generation {
  /**
   * The new text, without the prompt; empty where there is no tokenizer and the prompt was given as
   * ids.
   */
  readonly text: string;
  /** The new token ids, an end token included. */
  readonly tokenIds: readonly number[];
  /** The prompt's token ids. */
  readonly promptIds: readonly number[];
  /** Why it ended. */
  readonly finishReason: FinishReason;
  /** Of beams, the sum of the log-probabilities of its tokens over its length to `lengthPenalty`. */
  readonly score?: number;
  /** Of beams, the next best texts, where `numReturnSequences` asks for them. */
  readonly alternatives?: readonly Generation[];
}

/** One token of one row, as it is generated. */
export interface GenerationChunk {
  /** Which prompt it belongs to, from 0. */
  readonly row: number;
  /** The token. */
  readonly tokenId: number;
  /**
   * Text that became certain with it; empty inside a character or where a stop string may have
   * begun. The pieces joined are the whole text.
   */
  readonly text: string;
  /** Why the row ended, with its last token. */
  readonly finishReason: FinishReason | null;
}

/**
 * Generates text from one prompt or several. Rows of a batch may differ in length; each gets the
 * text that it would get alone.
 *
 * Scores are changed in transformers' order: repetition penalty, repeated runs, temperature,
 * top-k, top-p. Unlike there, nothing is on unless it is given (transformers takes top-k 50 when it samples). With
 * `numBeams` above 1 the beams are those of transformers.
 *
 * @param model A model with or without adapters.
 * @param prompt Text, token ids, the messages of a chat, or a list of these.
 * @param options See {@link GenerateOptions}.
 * @throws {ValueError} for an empty or too long prompt, ids out of range, and options that cannot
 * be.
 * @throws {FileError} where a tokenizer is needed and there is none.
 * @throws the signal's reason where it stops.
 *
 * @example
 * ```ts
 * import { createModel, generate } from "@graft/peft";
 * const config = {
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4, max_position_embeddings: 128,
 * };
 * const model = await createModel(config, { device: "cpu" });
 * const { tokenIds } = await generate(model, [5, 6, 7], { maxNewTokens: 4 });
 * console.log(tokenIds.length); // 4
 * model.device[Symbol.dispose]();
 * ```
 */
export function generate(
  model: AnyModel,
  prompt: Prompt,
  options?: GenerateOptions,
): Promise<Generation>;
/** The same for several prompts; texts come in the order of the prompts. */
export function generate(
  model: AnyModel,
  prompts: readonly Prompt[],
  options?: GenerateOptions,
): Promise<readonly Generation[]>;
/** Either of them. */
export function generate(
  model: AnyModel,
  prompt: Prompt | readonly Prompt[],
  options?: GenerateOptions,
): Promise<Generation | readonly Generation[]>;
export async function generate(
  model: AnyModel,
  prompt: Prompt | readonly Prompt[],
  options: GenerateOptions = {},
): Promise<Generation | readonly Generation[]> {
  const results = await generateAll(model, prompt, options);
  return isPrompt(prompt) ? results[0] : results;
}

/**
 * Generates like {@link generate}, and gives each token as soon as it is known.
 *
 * @param model A model with or without adapters.
 * @param prompt Text, token ids, the messages of a chat, or a list of these.
 * @param options See {@link GenerateOptions}.
 *
 * @example
 * ```ts
 * import { generateStream, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * for await (const { tokenId } of generateStream(model, [5, 6, 7], { maxNewTokens: 3 })) {
 *   console.log(tokenId);
 * }
 * ```
 */
export async function* generateStream(
  model: AnyModel,
  prompt: Prompt | readonly Prompt[],
  options: GenerateOptions = {},
): AsyncGenerator<GenerationChunk, void, void> {
  yield* generateRows(model, prompt, options);
}

/** What one call works on. */
async function openRun(
  model: AnyModel,
  given: Prompt | readonly Prompt[],
  options: GenerateOptions,
) {
  const { maxNewTokens = 128, signal } = options;
  signal?.throwIfAborted();
  checkPrompts(given);
  const prompts = isPrompt(given) ? [given] : given;
  const tokenizer = await findTokenizer(model, prompts, options);
  const maxPositions = maxPositionsOf(model);
  const ids = promptIds(model, prompts, { ...options, tokenizer, maxPositions });
  const ends = options.eosTokenId === undefined
    ? endIds(model, tokenizer)
    : new Set([options.eosTokenId].flat());
  const base = baseOf(model), hasEncoder = writtenSequence(base) === "decoderTokens";
  return {
    tokenizer,
    ends,
    rows: ids.map((promptIds) => ({
      promptIds,
      // What an encoder reads is not a part of the text.
      before: hasEncoder ? [decoderStart(base)] : promptIds,
      // The last position's token is predicted, but has no place to be fed to.
      limit: Math.min(maxNewTokens, maxPositions - promptIds.length + 1),
    })),
    open: (times: number) => {
      const each = <T>(list: readonly T[]) => list.flatMap((one) => new Array<T>(times).fill(one));
      const { adapterNames, taskIds } = options;
      return (options.cache?.open ?? openDecoder)(model, each(ids), {
        expected: Math.min(maxNewTokens, 128),
        adapterNames: Array.isArray(adapterNames) ? each(adapterNames) : adapterNames,
        taskIds: Array.isArray(taskIds) ? each(taskIds) : taskIds,
        signal,
      });
    },
  };
}

async function* generateRows(
  model: AnyModel,
  given: Prompt | readonly Prompt[],
  options: GenerateOptions,
): AsyncGenerator<GenerationChunk, readonly Generation[], void> {
  checkOptions(options, GENERATE_RULES, { code: "SAMPLING_OPTION", of: "generate" });
  checkBeams(options, true);
  const next = tokenChooser(options);
  const { tokenizer, ends, rows: prompts, open } = await openRun(model, given, options);
  const rows = prompts.map((prompt, row) =>
    openRow({
      ...prompt,
      row,
      tokenizer,
      ends,
      stops: [options.stop ?? []].flat(),
      next,
      skipSpecialTokens: options.skipSpecialTokens ?? true,
      includeStop: options.includeStop,
    })
  );
  using decoder = await open(1);
  const fed = new Int32Array(rows.length);
  const size = decoder.logits.length / rows.length;
  for (let step = 0;; step++) {
    for (const [b, row] of rows.entries()) {
      // A row that has ended goes on with any token, as the batch stays as it is.
      if (row.ended()) continue;
      const chunk = row.take(decoder.logits.subarray(b * size, (b + 1) * size), step);
      fed[b] = chunk.tokenId;
      yield chunk;
    }
    if (rows.every((row) => row.ended())) return rows.map((row) => row.result());
    options.signal?.throwIfAborted();
    await decoder.step(fed);
  }
}

/** Options that mean something with several beams only, and those that mean nothing then. */
const BEAMS = ["lengthPenalty", "earlyStopping", "numReturnSequences"] as const;
const NO_BEAMS = ["doSample", "temperature", "topK", "topP", "stop"] as const;

function checkBeams(options: GenerateOptions, streams: boolean): void {
  const { numBeams = 1, numReturnSequences = 1 } = options, several = numBeams > 1;
  const fail = (message: string) => new ValueError("SAMPLING_OPTION", message);
  if (several && streams) {
    throw fail("What beams find is not known before they end: use generate, not generateStream.");
  }
  const odd = (several ? NO_BEAMS : BEAMS).find((name) => options[name] && options[name] !== 1);
  if (odd) {
    throw fail(
      `${odd} means nothing ${
        several ? "to" : "without"
      } several beams, and numBeams is ${numBeams}.`,
    );
  }
  if (numReturnSequences > numBeams) {
    throw fail(`${numBeams} beams cannot give ${numReturnSequences} sequences: raise numBeams.`);
  }
}

async function generateAll(
  model: AnyModel,
  prompt: Prompt | readonly Prompt[],
  options: GenerateOptions,
): Promise<readonly Generation[]> {
  checkOptions(options, GENERATE_RULES, { code: "SAMPLING_OPTION", of: "generate" });
  const { numBeams = 1, numReturnSequences = 1 } = options;
  if (numBeams === 1) {
    const run = generateRows(model, prompt, options);
    for (;;) {
      const next = await run.next();
      if (next.done) return next.value;
    }
  }
  checkBeams(options, false);
  const { tokenizer, ends, rows, open } = await openRun(model, prompt, options);
  const { repetitionPenalty, noRepeatNgramSize, skipSpecialTokens = true, signal } = options;
  using decoder = await open(numBeams);
  const found = await searchBeams(decoder, rows, {
    numBeams,
    lengthPenalty: options.lengthPenalty ?? 1,
    earlyStopping: options.earlyStopping ?? false,
    ends,
    change: (scores, occurred) =>
      processLogits(scores, { repetitionPenalty, noRepeatNgramSize, occurred }),
    signal,
  });
  return found.map((all, row) => {
    const [best, ...others] = all.slice(0, numReturnSequences).map(({ tokenIds, score }) => {
      const atEnd = ends.has(tokenIds[tokenIds.length - 1]);
      const shown = atEnd && skipSpecialTokens ? tokenIds.slice(0, -1) : tokenIds;
      return {
        text: tokenizer?.decode(shown, { skipSpecialTokens }) ?? "",
        tokenIds,
        promptIds: rows[row].promptIds,
        finishReason: atEnd ? "eos" as const : "length" as const,
        score,
      };
    });
    return others.length ? { ...best, alternatives: others } : best;
  });
}

interface Row {
  ended(): boolean;
  take(logits: Float32Array, step: number): GenerationChunk;
  result(): Generation;
}

/** One text of the batch: what it holds so far and whether it has ended. */
function openRow(
  options: {
    readonly promptIds: readonly number[];
    /** What counts as written before. */
    readonly before: readonly number[];
    readonly row: number;
    readonly tokenizer: Tokenizer | null;
    readonly ends: ReadonlySet<number>;
    readonly stops: readonly string[];
    readonly next: TokenChooser;
    readonly skipSpecialTokens: boolean;
    readonly includeStop?: boolean;
    readonly limit: number;
  },
): Row {
  const { promptIds, row, tokenizer, ends, stops, limit } = options;
  const occurred = [...options.before];
  const tokenIds: number[] = [];
  const decode = tokenizer && createDecodeStream(tokenizer, options);
  const scanner = createStopScanner(stops, { include: options.includeStop });
  let text = "";
  let finishReason: FinishReason | null = null;
  return {
    ended: () => finishReason !== null,
    take(logits, step) {
      const tokenId = options.next(logits, { occurred, row, step });
      tokenIds.push(tokenId);
      occurred.push(tokenId);
      const atEnd = ends.has(tokenId);
      const last = atEnd || tokenIds.length === limit;
      // An end token shows only where special tokens do; it is never a part of the text otherwise.
      let piece = atEnd && options.skipSpecialTokens ? "" : decode?.push(tokenId) ?? "";
      if (last) piece += decode?.flush() ?? "";
      const scanned = scanner.push(piece);
      let shown = scanned.text;
      if (scanned.stop !== null) finishReason = "stop";
      else if (last) {
        finishReason = atEnd ? "eos" : "length";
        shown += scanner.flush();
      }
      text += shown;
      return { row, tokenId, text: shown, finishReason };
    },
    result: () => ({ text, tokenIds, promptIds, finishReason: finishReason! }),
  };
}

type TokenChooser = (
  logits: Float32Array,
  at: { readonly occurred: readonly number[]; readonly row: number; readonly step: number },
) => number;

function tokenChooser(options: GenerateOptions): TokenChooser {
  const { temperature, topK, topP, seed = 0 } = options;
  const { repetitionPenalty = 1, noRepeatNgramSize = 0 } = options;
  const greedy = options.doSample === false || temperature === 0 ||
    (options.doSample === undefined && temperature === undefined && topK === undefined &&
      topP === undefined);
  const sampling = { repetitionPenalty, noRepeatNgramSize, temperature, topK, topP };
  if (greedy) {
    const changes = repetitionPenalty !== 1 || noRepeatNgramSize > 0;
    return (logits, { occurred }) =>
      argmax(
        changes
          ? processLogits(logits, { repetitionPenalty, noRepeatNgramSize, occurred })
          : logits,
      );
  }
  return (logits, { occurred, row, step }) =>
    drawToken(
      processLogits(logits, { ...sampling, occurred }),
      randomUniform({ seed, stream: row, index: step }),
    );
}

async function findTokenizer(
  model: AnyModel,
  prompts: readonly Prompt[],
  options: GenerateOptions,
): Promise<Tokenizer | null> {
  if (options.tokenizer) return options.tokenizer;
  const needed = options.stop !== undefined ||
    prompts.some((p) => typeof p === "string" || (p.length > 0 && typeof p[0] !== "number"));
  try {
    return await tokenizerOf(baseOf(model));
  } catch (error) {
    if (!needed && error instanceof FileError && error.code === "TOKENIZER_MISSING") return null;
    throw error;
  }
}
