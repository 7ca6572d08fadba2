/**
 * What a model has read and written, kept for a text that begins in the same way: the next turn of a
 * conversation.
 *
 * @module
 */
import { rowParts } from "../adapters/batch.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { writtenSequence } from "../model/model-graph.ts";
import { type Decoder, openDecoder } from "./decoder.ts";

/** Keeps keys and values from one call of `generate` to the next, until it is disposed of. */
export interface PrefixCache extends Disposable {
  /** Number of tokens that are kept. */
  readonly length: number;
  /** As `openDecoder`, but reads only what follows the tokens that are kept. */
  open: typeof openDecoder;
}

interface Kept {
  readonly model: AnyModel;
  readonly decoder: Decoder;
  /** What the decoder has been given. */
  readonly ids: number[];
}

/**
 * A cache to give to `generate` with each turn of a conversation. It serves one prompt at a time and
 * one model value after another; another model or other beginnings only cost what they would cost
 * without it. Models whose positions change as a text grows (dynamic RoPE), models with an encoder or
 * with adapters that look for tokens in prompts (`aloraInvocationTokens`), and calls with beams, or with adapters or tasks by row, read their prompts anew.
 *
 * @example
 * ```ts
 * import { createPrefixCache, generate, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * using cache = createPrefixCache();
 * const first = await generate(model, [5, 6, 7], { maxNewTokens: 3, cache });
 * const text = [...first.promptIds, ...first.tokenIds, 8, 9];
 * const next = await generate(model, text, { maxNewTokens: 3, cache });
 * console.log(next.promptIds.length, cache.length); // 8 10
 * ```
 */
export function createPrefixCache(): PrefixCache {
  let kept: Kept | undefined, busy = false, closed = false;
  const clear = () => {
    kept?.decoder[Symbol.dispose]();
    kept = undefined;
  };
  const end = () => {
    busy = false;
    if (closed) clear();
  };
  return {
    get length() {
      return kept?.ids.length ?? 0;
    },
    async open(model, prompts, options = {}) {
      const byRow = options.adapterNames !== undefined || options.taskIds !== undefined;
      if (busy || closed || byRow || prompts.length !== 1) {
        return await openDecoder(model, prompts, options);
      }
      busy = true;
      try {
        const ids = [...prompts[0]];
        // The last token is read anew at least, for its scores.
        const same = kept?.model === model && await isExtensible(model)
          ? Math.min(commonLength(kept.ids, ids), ids.length - 1)
          : 0;
        if (kept && same > 0) {
          const { decoder } = kept;
          decoder.rewind(kept.ids.length - same);
          await decoder.step(Int32Array.from(ids.slice(same)));
          kept = { model, decoder, ids };
        } else {
          clear();
          kept = { model, decoder: await openDecoder(model, prompts, options), ids };
        }
      } catch (error) {
        clear();
        end();
        throw error;
      }
      const { decoder, ids } = kept;
      return {
        get logits() {
          return decoder.logits;
        },
        async step(more) {
          try {
            await decoder.step(more);
          } catch (error) {
            clear();
            throw error;
          }
          ids.push(...more);
        },
        reorder: (rows) => decoder.reorder(rows),
        rewind(count) {
          decoder.rewind(count);
          ids.length -= count;
        },
        [Symbol.dispose]: end,
      };
    },
    [Symbol.dispose]() {
      closed = true;
      if (!busy) clear();
    },
  };
}

/** Whether what a model has read stays valid as a text grows. */
async function isExtensible(model: AnyModel): Promise<boolean> {
  const base = baseOf(model), { architecture, config } = base;
  if (writtenSequence(base) === "decoderTokens") return false;
  if (Object.keys(rowParts(model, [])).length) return false;
  const positions = Int32Array.of(1);
  const inputsAt = async (length: number) => {
    const inputs = architecture.hostInputs?.(config, { positions, shape: [1, 1], length }) ?? {};
    return (await Promise.all(Object.values(inputs).map((input) => input.data()))).join();
  };
  return await inputsAt(1) === await inputsAt(2 ** 20);
}

function commonLength(a: readonly number[], b: readonly number[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}
