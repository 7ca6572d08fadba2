/**
 * Decoding token by token.
 *
 * @module
 */
import type { Tokenizer } from "./tokenizer.ts";

/** Takes ids one by one and gives the text that is certain so far. */
export interface DecodeStream {
  /** Adds an id; gives the text that it completes, which is empty inside a character. */
  push(id: number): string;
  /** Ends the stream; gives what was held back. The stream can then be used again. */
  flush(): string;
}

/**
 * A stream that decodes ids as they come. It never gives a part of a character: bytes of an
 * unfinished one are held back until the rest arrives. The pieces joined are the text that decoding
 * all ids at once gives.
 *
 * @param tokenizer Where the ids are from.
 * @param options As for {@link Tokenizer.decode}.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, createDecodeStream, loadTokenizer } from "@graft/peft";
 * const stream = createDecodeStream(await loadTokenizer(byteTokenizerFiles()));
 * console.log([195, 169].map((id) => stream.push(id))); // ["", "é"]
 * ```
 */
export function createDecodeStream(
  tokenizer: Tokenizer,
  options: { readonly skipSpecialTokens?: boolean } = {},
): DecodeStream {
  // The ids since the last point where the text was complete, after those of one stretch before,
  // which show whether the text goes on (a decoder may drop the space at its very beginning).
  let ids: number[] = [];
  let before = 0;
  let given = 0;
  const advance = (last: boolean): string => {
    const text = tokenizer.decode(ids, options);
    // Unfinished bytes decode to one replacement character at the end, which the next bytes may
    // still change.
    const certain = last || !text.endsWith("\ufffd") ? text.length : text.length - 1;
    const piece = text.slice(given, certain);
    given = Math.max(given, certain);
    if (certain === text.length && piece !== "") {
      ids = ids.slice(before);
      before = ids.length;
      given = tokenizer.decode(ids, options).length;
    }
    return piece;
  };
  return {
    push(id) {
      ids.push(id);
      return advance(false);
    },
    flush() {
      const piece = advance(true);
      ids = [];
      before = given = 0;
      return piece;
    },
  };
}
