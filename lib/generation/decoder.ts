/**
 * The model as a machine that takes tokens one by one and gives the scores of the next.
 *
 * @module
 */
import { compileModel } from "../adapters/forward.ts";
import { mixedBatch, mixedKey } from "../adapters/mixed-batch.ts";
import { type AnyModel, baseOf, virtualTokens } from "../adapters/peft-model.ts";
import { checkIds } from "../adapters/token-batch.ts";
import { runInputs, traceModel } from "../adapters/trace-model.ts";
import type { Executable, State } from "../device/device.ts";
import { ValueError } from "../errors.ts";
import { checkOptions, type OptionRules, show, SIGNAL, wholeFrom } from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { cacheCapacity, cacheSpecs, growCache, promptChunks } from "./kv-cache.ts";

const OPTIONS: OptionRules<NonNullable<Parameters<typeof openDecoder>[2]>> = {
  expected: wholeFrom(0),
  adapterNames: null,
  signal: SIGNAL,
};

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
 * gives each row its own adapter; `signal` stops between two parts of a long prompt.
 * @throws {ValueError} for prompts that are no ids of the vocabulary, and for an option that cannot
 * be.
 *
 * @example
 * ```ts
 * import { argmax, createModel, openDecoder } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
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
    readonly signal?: AbortSignal;
  } = {},
): Promise<Decoder> {
  const base = baseOf(model);
  checkOptions(options, OPTIONS, { code: "DECODER_OPTION", of: "openDecoder" });
  checkRows(model, prompts);
  const { architecture, config, device } = base;
  const layout = architecture.cache(config);
  const batch = prompts.length;
  const longest = Math.max(...prompts.map((ids) => ids.length));
  const padding = prompts.map((ids) => longest - ids.length);

  const mixed = mixedBatch(model, options.adapterNames, batch);
  // Virtual tokens take the first places of the cache, before padding and text.
  const virtual = mixed ? 0 : virtualTokens(model);
  const chunks = promptChunks(longest);
  const { start: lastStart, length: lastLength } = chunks[chunks.length - 1];

  let used = 0;
  let capacity = cacheCapacity(
    virtual + Math.max(lastStart + lastLength, longest + (options.expected ?? 0)),
  );
  let state: State = device.createState(cacheSpecs(layout, { batch, capacity }));
  let logits: Float32Array;
  let decode: { readonly executable: Executable; readonly inputs: Record<string, Tensor> };

  const compiled = (length: number, first = false) =>
    compileModel(
      model,
      `generate ${batch} ${length} ${capacity} ${first && virtual > 0} ${mixedKey(mixed)}`,
      () =>
        traceModel(model, {
          batch,
          length,
          cache: { capacity, first },
          mixed: mixed?.names,
          logitRows: length === 1 ? undefined : 1,
          outputs: (_, values) => ({ logits: values.logits }),
        }),
    );

  // Padding is all that has to be masked: what the cache does not hold yet lies beyond the query,
  // where no query looks.
  const keySegments = () => {
    const segments = new Int32Array(batch * capacity).fill(1);
    padding.forEach((n, b) => {
      const from = b * capacity + virtual;
      segments.fill(0, from, from + n);
    });
    return segments;
  };

  async function prefill(): Promise<void> {
    for (const { start, count, length } of chunks) {
      options.signal?.throwIfAborted();
      const { traced, executable } = await compiled(length, start === 0);
      const ids = new Int32Array(batch * length);
      const positions = new Int32Array(batch * length);
      const querySegments = new Int32Array(batch * length);
      prompts.forEach((prompt, b) => {
        for (let t = 0; t < count; t++) {
          const position = start + t - padding[b];
          if (position < 0) continue;
          ids[b * length + t] = prompt[position];
          positions[b * length + t] = virtual + position;
          querySegments[b * length + t] = 1;
        }
      });
      const outputs = await executable.run({
        ...traced.bindings,
        ...runInputs(model, {
          program: executable.program,
          batch,
          length,
          ids,
          positions,
          querySegments,
          keySegments: keySegments(),
          offset: start === 0 ? 0 : virtual + start,
          sequenceLength: virtual + longest,
          rowAdapters: mixed?.rows,
          logitRows: Int32Array.from(prompts, (_, b) => b * length + count - 1),
        }),
      }, { state });
      logits = await outputs.logits.data() as Float32Array;
    }
    used = virtual + longest;
  }

  async function openDecode(): Promise<void> {
    const { traced, executable } = await compiled(1);
    const { program } = executable;
    const inputs = {
      ...traced.bindings,
      ...runInputs(model, {
        program,
        batch,
        length: 1,
        ids: new Int32Array(batch),
        positions: new Int32Array(batch),
        keySegments: keySegments(),
        rowAdapters: mixed?.rows,
      }),
    };
    decode = { executable, inputs };
  }

  async function makeRoom(): Promise<void> {
    capacity = cacheCapacity(used + 1);
    state = await growCache(device, state, cacheSpecs(layout, { batch, capacity }));
    await openDecode();
  }

  async function step(ids: Int32Array): Promise<void> {
    if (used === capacity) await makeRoom();
    else if (!decode) await openDecode();
    const { executable, inputs } = decode;
    const positions = Int32Array.from(padding, (n) => used - n);
    const fresh: Readonly<Record<string, Tensor>> = {
      ids: tensor(ids.slice(), { shape: [batch, 1] }),
      positions: tensor(positions, { shape: [batch, 1] }),
      offset: tensor(Int32Array.of(used)),
      ...architecture.hostInputs(config, { positions, shape: [batch, 1], length: used + 1 }),
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
