/**
 * Finding stop strings in text that comes in pieces.
 *
 * @module
 */

/** What a scanner makes of a piece. */
export interface ScannedText {
  /** Text that can be shown now: nothing in it can belong to a stop string any more. */
  readonly text: string;
  /** The stop string that was found, after which nothing more is to come. */
  readonly stop: string | null;
}

/** Takes text piece by piece and holds back what may be the beginning of a stop string. */
export interface StopScanner {
  /** Adds a piece. */
  push(piece: string): ScannedText;
  /** Gives what was held back, at the end of the text. */
  flush(): string;
}

/**
 * A scanner that looks for the first of several strings.
 *
 * @param stops Strings that are not empty.
 * @param options With `include` the text ends with the string that was found instead of before it.
 */
export function createStopScanner(
  stops: readonly string[],
  options: { readonly include?: boolean } = {},
): StopScanner {
  let held = "";
  return {
    push(piece) {
      held += piece;
      const found = firstOf(stops, held);
      if (found) {
        const text = held.slice(0, options.include ? found.at + found.stop.length : found.at);
        held = "";
        return { text, stop: found.stop };
      }
      const keep = Math.max(0, ...stops.map((stop) => overlap(held, stop)));
      const text = held.slice(0, held.length - keep);
      held = held.slice(held.length - keep);
      return { text, stop: null };
    },
    flush() {
      const text = held;
      held = "";
      return text;
    },
  };
}

/** The stop string that begins first; of those that begin together, the longest. */
function firstOf(
  stops: readonly string[],
  text: string,
): { readonly at: number; readonly stop: string } | null {
  let best: { at: number; stop: string } | null = null;
  for (const stop of stops) {
    const at = text.indexOf(stop);
    if (at < 0) continue;
    if (!best || at < best.at || (at === best.at && stop.length > best.stop.length)) {
      best = { at, stop };
    }
  }
  return best;
}

/** Length of the longest end of `text` that is a beginning of `stop`, but not the whole of it. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) {
    if (text.endsWith(stop.slice(0, n))) return n;
  }
  return 0;
}
