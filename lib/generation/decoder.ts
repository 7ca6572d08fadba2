/**
 * The model as a machine that takes tokens one by one and gives the scores of the next.
 *
 * @module
 */
import { promptParts, rowParts } from "../adapters/batch.ts";
import { compileModel } from "../adapters/forward.ts";
import { mixedBatch, mixedKey } from "../adapters/mixed-batch.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { checkIds } from "../adapters/token-batch.ts";
import { runInputs, traceModel, virtualRows } from "../adapters/trace-model.ts";
import type { Executable, State } from "../device/device.ts";
import { ConfigError, UnsupportedError, ValueError } from "../errors.ts";
import { type ModelGraph, vocabularySize, writtenSequence } from "../model/model-graph.ts";
import { checkOptions, show, SIGNAL, wholeFrom } from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import {
  cacheCapacity,
  cacheSpecs,
  growCache,
  type PromptChunk,
  promptChunks,
  readLength,
  reorderProgram,
} from "./kv-cache.ts";

/** A batch of texts, and the scores of the token that comes next in each. */
export interface Decoder extends Disposable {
  /** Scores of the next token, row-major [B, V], after what was last given. */
  readonly logits: Float32Array;
  /**
   * Adds tokens to each row, as many to one as to another, and computes the scores that follow; `ids`
   * holds them row-major, [B, n].
   */
  step(ids: Int32Array): Promise<void>;
  /** Has each row i go on from what row `rows[i]` holds. The scores are wrong until the next step. */
  reorder(rows: Int32Array): Promise<void>;
  /** Forgets the last tokens of each row. The scores are wrong until the next step. */
  rewind(count: number): void;
}

/**
 * Runs prompts through a model, shorter ones padded on the left, and keeps their keys and values
 * for the tokens to come.
 *
 * @param model A model with or without adapters.
 * @param prompts Token ids, at least one in each row, all in the vocabulary.
 * @param options `expected` new tokens find room without the cache having to grow; `adapterNames`
 * gives each row its own adapter, `taskIds` its task where an adapter routes by it; `signal` stops between two parts of a long prompt.
 * @throws {ValueError} for prompts that are no ids of the vocabulary, and for an option that cannot
 * be.
 *
 * @example
 * ```ts
 * import { argmax, openDecoder, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * using decoder = await openDecoder(model, [[5, 6, 7]]);
 * const next = argmax(decoder.logits);
 * await decoder.step(Int32Array.of(next));
 * console.log(decoder.logits.length); // 96
 * ```
 */
export async function openDecoder(
  model: AnyModel,
  prompts: readonly (readonly number[])[],
  options: {
    readonly expected?: number;
    readonly adapterNames?: readonly string[];
    readonly taskIds?: readonly number[] | Tensor;
    readonly signal?: AbortSignal;
  } = {},
): Promise<Decoder> {
  const base = baseOf(model);
  checkOptions(options, {
    expected: wholeFrom(0),
    adapterNames: null,
    taskIds: null,
    signal: SIGNAL,
  }, { code: "DECODER_OPTION", of: "openDecoder" });
  checkRows(model, prompts);
  checkWrites(base);
  const { architecture, config, device } = base;
  // The prompts of a model with an encoder are what that reads; its decoder begins on its own.
  const hasEncoder = writtenSequence(base) === "decoderTokens";
  const batch = prompts.length;
  const longest = Math.max(...prompts.map((ids) => ids.length));
  const padding = prompts.map((ids) => hasEncoder ? 0 : longest - ids.length);

  const mixed = mixedBatch(model, options.adapterNames, batch);
  const virtual = virtualRows(model, { mixed: mixed?.names });
  const { taskIds, adapterNames } = options;
  const padded = prompts.map((ids, b) => Int32Array.of(...new Array(padding[b]).fill(-1), ...ids));
  const routed = {
    ...await promptParts(model, { taskIds }, {
      rows: batch,
      adapterNames,
      code: "DECODER_OPTION",
      of: "Generating",
    }),
    ...rowParts(model, padded, adapterNames),
  };
  // Virtual tokens take the first places of the cache, before padding and text; those of an encoder
  // are among what it reads.
  const inFront = hasEncoder && virtual.place === "embeddings" ? 0 : virtual.count;
  const chunks = hasEncoder ? [{ start: 0, count: 1, length: 1 }] : promptChunks(longest);
  const { start: lastStart, length: lastLength } = chunks[chunks.length - 1];
  const written = hasEncoder ? 1 : longest;
  const read = hasEncoder ? readLength(longest) : 0;
  const memory = read && read + virtual.count - inFront;

  let used = 0;
  let capacity = cacheCapacity(
    inFront + Math.max(lastStart + lastLength, written + (options.expected ?? 0)),
  );
  let state: State = device.createState(cacheSpecs(base, { batch, capacity, memory }));
  let logits: Float32Array, reordering: Executable | undefined;
  let decode:
    | { readonly executable: Executable; readonly inputs: Record<string, Tensor> }
    | undefined;

  const compiled = (length: number, first = false) => {
    const atStart = first && (virtual.count > 0 || hasEncoder);
    return compileModel(
      model,
      `generate ${batch} ${length} ${capacity} ${memory} ${atStart} ${mixedKey(mixed)}`,
      () =>
        traceModel(model, {
          batch,
          length: !hasEncoder ? length : first ? read : memory,
          decoderLength: hasEncoder ? length : undefined,
          virtual,
          cache: { capacity, first },
          mixed: mixed?.names,
          logitRows: length === 1 ? undefined : 1,
          outputs: (_, values) => ({ logits: values.logits }),
        }),
    );
  };

  // Padding is all that has to be masked: what the cache does not hold yet lies beyond the query,
  // where no query looks.
  const seen = () => {
    const segments = new Int32Array(batch * capacity).fill(1);
    padding.forEach((n, b) => {
      const from = b * capacity + inFront;
      segments.fill(0, from, from + n);
    });
    return segments;
  };

  /** What an encoder reads: the prompts, padded on the right. */
  const source = () => {
    const ids = new Int32Array(batch * read), mask = new Int32Array(batch * memory).fill(1);
    prompts.forEach((prompt, b) => {
      ids.set(prompt, b * read);
      mask.fill(0, (b + 1) * memory - read + prompt.length, (b + 1) * memory);
    });
    return { ids, positions: new Int32Array(batch * memory), keySegments: mask };
  };

  /** What says to a decoder with an encoder what came before, and the tokens that it gets. */
  const decoderParts = (ids: Int32Array) => ({
    ...routed,
    decoderInputIds: tensor(ids, { shape: [batch, 1] }),
    decoderAttentionMask: tensor(seen(), { shape: [batch, capacity] }),
  });

  /** Runs parts of the rows; `idAt` gives the id at a place of a row, counted from its padding on. */
  async function feed(
    parts: readonly PromptChunk[],
    idAt: (row: number, place: number) => number,
  ): Promise<void> {
    const { start, count } = parts[parts.length - 1], end = inFront + start + count;
    for (const part of parts) {
      const { start, length } = part;
      options.signal?.throwIfAborted();
      const { traced, executable } = await compiled(length, start === 0);
      const own = hasEncoder
        ? { ...source(), parts: decoderParts(new Int32Array(batch).fill(decoderStart(base))) }
        : textPart(part, idAt);
      const outputs = await executable.run({
        ...traced.bindings,
        ...runInputs(model, {
          program: executable.program,
          batch,
          length,
          offset: start === 0 ? 0 : inFront + start,
          sequenceLength: end,
          rowAdapters: mixed?.rows,
          ...own,
        }),
      }, { state });
      logits = await outputs.logits.data() as Float32Array;
    }
    used = end;
  }

  /** A part of the rows, and virtual tokens among the embedded ones before the first part. */
  function textPart(
    { start, count, length }: PromptChunk,
    idAt: (row: number, place: number) => number,
  ) {
    const lead = start === 0 && virtual.place === "embeddings" ? virtual.count : 0;
    const width = lead + length;
    const ids = new Int32Array(batch * length);
    const positions = new Int32Array(batch * width);
    const querySegments = new Int32Array(batch * width);
    padding.forEach((pad, b) => {
      for (let t = 0; t < lead; t++) {
        positions[b * width + t] = t;
        querySegments[b * width + t] = 1;
      }
      for (let t = 0; t < count; t++) {
        const place = start + t - pad, at = b * width + lead + t;
        if (place < 0) continue;
        ids[b * length + t] = idAt(b, place);
        positions[at] = virtual.count + place;
        querySegments[at] = 1;
      }
    });
    const logitRows = Int32Array.from(padding, (_, b) => b * width + lead + count - 1);
    return { ids, positions, querySegments, keySegments: seen(), logitRows, parts: routed };
  }

  async function openDecode(): Promise<NonNullable<typeof decode>> {
    const { traced, executable } = await compiled(1);
    const own = hasEncoder ? { ...source(), parts: decoderParts(new Int32Array(batch)) } : {
      ids: new Int32Array(batch),
      positions: new Int32Array(batch),
      keySegments: seen(),
      parts: routed,
    };
    const inputs = {
      ...traced.bindings,
      ...runInputs(model, {
        program: executable.program,
        batch,
        length: 1,
        rowAdapters: mixed?.rows,
        ...own,
      }),
    };
    return { executable, inputs };
  }

  async function makeRoom(positions: number): Promise<void> {
    if (positions <= capacity) return;
    capacity = cacheCapacity(positions);
    state = await growCache(device, state, cacheSpecs(base, { batch, capacity, memory }));
    decode = reordering = undefined;
  }

  async function step(ids: Int32Array): Promise<void> {
    const each = ids.length / batch;
    checkStep(each, ids.length, batch);
    if (each === 1) return await stepOne(ids);
    if (hasEncoder) {
      for (let t = 0; t < each; t++) {
        await stepOne(Int32Array.from(padding, (_, b) => ids[b * each + t]));
      }
      return;
    }
    const from = used - inFront;
    const parts = promptChunks(each).map((part) => ({ ...part, start: from + part.start }));
    const last = parts[parts.length - 1];
    await makeRoom(inFront + last.start + last.length);
    await feed(parts, (b, place) => ids[b * each + place + padding[b] - from]);
  }

  async function stepOne(ids: Int32Array): Promise<void> {
    await makeRoom(used + 1);
    const { executable, inputs } = decode ??= await openDecode();
    const positions = Int32Array.from(padding, (n) => used - n);
    const tokens = tensor(ids.slice(), { shape: [batch, 1] });
    const fresh: Readonly<Record<string, Tensor>> = {
      [hasEncoder ? "decoderInputIds" : "ids"]: tokens,
      positions: tensor(positions, { shape: [batch, 1] }),
      offset: tensor(Int32Array.of(used)),
      ...architecture.hostInputs?.(config, { positions, shape: [batch, 1], length: used + 1 }),
    };
    for (const name in fresh) if (name in inputs) inputs[name] = fresh[name];
    const outputs = await executable.run(inputs, { state });
    logits = await outputs.logits.data() as Float32Array;
    used++;
  }

  async function reorder(rows: Int32Array): Promise<void> {
    if (rows.every((row, i) => row === i)) return;
    // What an encoder read is the same for all that go on from one prompt.
    const written = Object.entries(state.specs).filter(([name]) => name.startsWith("cache."));
    reordering ??= await device.compile(reorderProgram(Object.fromEntries(written)));
    await reordering.run({ rows: tensor(rows.slice()) }, { state, read: [] });
  }

  function rewind(count: number): void {
    const most = used - inFront - 1 - Math.max(...padding);
    checkOptions({ count }, { count: wholeFrom(0) }, { code: "DECODER_OPTION", of: "rewind" });
    if (count > most) {
      throw new ValueError(
        "DECODER_OPTION",
        `${most} tokens can be forgotten, as each row keeps one at least; found ${count}.`,
      );
    }
    used -= count;
  }

  try {
    await feed(chunks, (b, place) => prompts[b][place]);
  } catch (error) {
    state[Symbol.dispose]();
    throw error;
  }
  return {
    get logits() {
      return logits;
    },
    step,
    reorder,
    rewind,
    [Symbol.dispose]: () => state[Symbol.dispose](),
  };
}

/** Refuses a step that does not give each row the same number of tokens. */
function checkStep(each: number, given: number, batch: number): void {
  if (Number.isInteger(each) && each > 0) return;
  throw new ValueError(
    "DECODER_OPTION",
    `A step takes as many ids for one row as for another, at least one; found ${given} for ${batch} rows.`,
  );
}

/** The id before the first one that a decoder beside an encoder writes. */
export function decoderStart(model: ModelGraph): number {
  const { config, generationConfig } = model;
  const found = generationConfig.decoder_start_token_id ?? config.decoder_start_token_id ??
    config.pad_token_id;
  if (typeof found === "number" && found >= 0 && found < vocabularySize(model)) return found;
  throw new ConfigError(
    "DECODER_START",
    `The config of a ${config.model_type} model needs decoder_start_token_id, one of its tokens, which the decoder begins with; found ${
      found ?? "none"
    }.`,
  );
}

/** Refuses a model that writes nothing. */
function checkWrites({ architecture, taskType }: ModelGraph): void {
  if (taskType === "CAUSAL_LM" || taskType === "SEQ_2_SEQ_LM") return;
  throw new UnsupportedError(
    "GENERATE_UNSUPPORTED",
    `To write text takes a language model, and this ${architecture.name} model is one for ${taskType}. ` +
      "Load one with another taskType.",
    { taskType },
  );
}

/** Refuses what is no list of rows of token ids. */
function checkRows(model: AnyModel, prompts: readonly (readonly number[])[]): void {
  const isList = Array.isArray(prompts) && prompts.length > 0;
  const odd = isList
    ? prompts.findIndex((row: unknown) =>
      !(Array.isArray(row) || row instanceof Int32Array) || row.length === 0
    )
    : -1;
  if (!isList || odd >= 0) {
    throw new ValueError(
      "PROMPT_TYPE",
      `openDecoder needs a list of prompts with one token id at least in each; found ${
        odd >= 0 ? `${show(prompts[odd])} for row ${odd}` : show(prompts)
      }.`,
    );
  }
  for (const row of prompts) checkIds(model, row);
}
