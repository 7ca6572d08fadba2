/**
 * The model as a machine that takes tokens one by one and gives the scores of the next.
 *
 * @module
 */
import { promptParts } from "../adapters/batch.ts";
import { compileModel } from "../adapters/forward.ts";
import { mixedBatch, mixedKey } from "../adapters/mixed-batch.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { checkIds } from "../adapters/token-batch.ts";
import { runInputs, traceModel, virtualRows } from "../adapters/trace-model.ts";
import type { Executable, State } from "../device/device.ts";
import { ConfigError, UnsupportedError, ValueError } from "../errors.ts";
import { type ModelGraph, writtenSequence } from "../model/model-graph.ts";
import { checkOptions, show, SIGNAL, wholeFrom } from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import {
  cacheCapacity,
  cacheSpecs,
  growCache,
  type PromptChunk,
  promptChunks,
  readLength,
} from "./kv-cache.ts";

/** A batch of texts, and the scores of the token that comes next in each. */
export interface Decoder extends Disposable {
  /** Scores of the next token, row-major [B, V], after what was last given. */
  readonly logits: Float32Array;
  /** Adds one token to each row and computes the scores that follow; `ids` holds B of them. */
  step(ids: Int32Array): Promise<void>;
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
  const routed = await promptParts(model, { taskIds }, {
    rows: batch,
    adapterNames,
    code: "DECODER_OPTION",
    of: "Generating",
  });
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
  let logits: Float32Array;
  let decode: { readonly executable: Executable; readonly inputs: Record<string, Tensor> };

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

  async function prefill(): Promise<void> {
    for (const { start, count, length } of chunks) {
      options.signal?.throwIfAborted();
      const { traced, executable } = await compiled(length, start === 0);
      const own = hasEncoder
        ? { ...source(), parts: decoderParts(new Int32Array(batch).fill(decoderStart(base))) }
        : promptPart({ start, count, length });
      const outputs = await executable.run({
        ...traced.bindings,
        ...runInputs(model, {
          program: executable.program,
          batch,
          length,
          offset: start === 0 ? 0 : inFront + start,
          sequenceLength: inFront + written,
          rowAdapters: mixed?.rows,
          ...own,
        }),
      }, { state });
      logits = await outputs.logits.data() as Float32Array;
    }
    used = inFront + written;
  }

  /** A part of the prompts, and virtual tokens among the embedded ones before the first part. */
  function promptPart({ start, count, length }: PromptChunk) {
    const lead = start === 0 && virtual.place === "embeddings" ? virtual.count : 0;
    const width = lead + length;
    const ids = new Int32Array(batch * length);
    const positions = new Int32Array(batch * width);
    const querySegments = new Int32Array(batch * width);
    prompts.forEach((prompt, b) => {
      for (let t = 0; t < lead; t++) {
        positions[b * width + t] = t;
        querySegments[b * width + t] = 1;
      }
      for (let t = 0; t < count; t++) {
        const position = start + t - padding[b], at = b * width + lead + t;
        if (position < 0) continue;
        ids[b * length + t] = prompt[position];
        positions[at] = virtual.count + position;
        querySegments[at] = 1;
      }
    });
    const logitRows = Int32Array.from(prompts, (_, b) => b * width + lead + count - 1);
    return { ids, positions, querySegments, keySegments: seen(), logitRows, parts: routed };
  }

  async function openDecode(): Promise<void> {
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
    decode = { executable, inputs };
  }

  async function makeRoom(): Promise<void> {
    capacity = cacheCapacity(used + 1);
    state = await growCache(device, state, cacheSpecs(base, { batch, capacity, memory }));
    await openDecode();
  }

  async function step(ids: Int32Array): Promise<void> {
    if (used === capacity) await makeRoom();
    else if (!decode) await openDecode();
    const { executable, inputs } = decode;
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

  try {
    await prefill();
  } catch (error) {
    state[Symbol.dispose]();
    throw error;
  }
  return {
    get logits() {
      return logits;
    },
    step,
    [Symbol.dispose]: () => state[Symbol.dispose](),
  };
}

/** The id before the first one that a decoder beside an encoder writes. */
function decoderStart({ config, generationConfig }: ModelGraph): number {
  const found = generationConfig.decoder_start_token_id ?? config.decoder_start_token_id ??
    config.pad_token_id;
  if (typeof found === "number") return found;
  throw new ConfigError(
    "DECODER_START",
    `The config of a ${config.model_type} model needs decoder_start_token_id, which the decoder begins with; found none.`,
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
