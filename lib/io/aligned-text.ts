/**
 * Text that knows where each of its parts came from.
 *
 * @module
 */

/** A text, and for each of its UTF-16 units the part of the original that it stands for. */
export interface AlignedText {
  /** The text. */
  readonly text: string;
  /** Where in the original a unit begins. */
  readonly starts: readonly number[];
  /** Where in the original a unit ends. */
  readonly ends: readonly number[];
}

/** The part of an original text between two positions, as it is. */
export function alignedText(text: string, from: number): AlignedText {
  const starts: number[] = [], ends: number[] = [];
  for (let at = from; at < from + text.length; at++) {
    starts.push(at);
    ends.push(at + 1);
  }
  return { text, starts, ends };
}

/** A part of a text. */
export function slice(of: AlignedText, from: number, to: number): AlignedText {
  return {
    text: of.text.slice(from, to),
    starts: of.starts.slice(from, to),
    ends: of.ends.slice(from, to),
  };
}

/** What texts, one after the other, become when each part of `of` is replaced. */
export function replaceParts(
  of: AlignedText,
  parts: Iterable<{ readonly from: number; readonly to: number; readonly text: string }>,
): AlignedText {
  const starts: number[] = [], ends: number[] = [];
  let text = "", at = 0;
  const put = (from: number, to: number, part: string) => {
    const old = of.text.slice(from, to);
    // Unit by unit, but not where that would take the two of one character apart.
    const same = part === old || part.length === old.length && !/[\ud800-\udfff]/.test(old);
    // What is put in where nothing was stands for the unit that follows.
    const last = of.text.length - 1;
    for (let i = 0; i < part.length; i++) {
      starts.push(of.starts[same ? from + i : Math.min(from, last)]);
      ends.push(of.ends[same ? from + i : Math.min(Math.max(from, to - 1), last)]);
    }
    text += part;
  };
  for (const { from, to, text: part } of parts) {
    put(at, from, of.text.slice(at, from));
    put(from, to, part);
    at = to;
  }
  put(at, of.text.length, of.text.slice(at));
  return { text, starts, ends };
}

// A character with its marks, or the jamo of a Hangul syllable: what normal forms change together.
const CLUSTER = /[^\p{M}\u1160-\u11ff][\p{M}\u1160-\u11ff]*|[^]/gu;

/** What a function makes of a text, aligned as finely as can be told from outside. */
export function mapText(of: AlignedText, change: (text: string) => string): AlignedText {
  const whole = change(of.text);
  if (whole === of.text) return of;
  if (whole === "") return { text: "", starts: [], ends: [] };
  const inside = of.text.indexOf(whole);
  if (inside >= 0) return slice(of, inside, inside + whole.length);
  const parts = Array.from(of.text.matchAll(CLUSTER), ({ 0: text, index }) => ({
    from: index,
    to: index + text.length,
    text: change(text),
  }));
  const byParts = replaceParts(of, parts);
  if (byParts.text === whole) return byParts;
  // It depends on what is around: what is the same at both ends stays, the rest is one part.
  let from = 0, back = 0;
  const most = Math.min(whole.length, of.text.length);
  while (from < most && whole[from] === of.text[from]) from++;
  while (
    back < most - from &&
    whole[whole.length - 1 - back] === of.text[of.text.length - 1 - back]
  ) back++;
  return replaceParts(of, [{
    from,
    to: of.text.length - back,
    text: whole.slice(from, whole.length - back),
  }]);
}
