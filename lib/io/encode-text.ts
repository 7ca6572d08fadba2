/**
 * Text to token ids, each with the part of the text that it stands for.
 *
 * Normalizers, patterns and vocabularies are `@huggingface/tokenizers`'; walking through them is
 * done here, since that library forgets where in the text a token came from.
 *
 * @module
 */
import type { Normalizer, PreTokenizer, Tokenizer as Backend } from "@huggingface/tokenizers";
import { type AlignedText, alignedText, mapText, replaceParts, slice } from "./aligned-text.ts";
import { byteAlphabet } from "./byte-alphabet.ts";
import { isObject, type JsonObject } from "./json.ts";
import type { RowPart, RowTemplate } from "./post-processor.ts";
import { precompiledReplacements } from "./precompiled.ts";

/** Token ids and, for each, where in the text what it stands for begins and ends. */
export interface Encoding {
  /** The ids. */
  readonly ids: number[];
  /**
   * UTF-16 positions, begin and end. Bytes of one character all stand for that character; tokens
   * that are put around the text stand for nothing at its begin or end.
   */
  readonly offsets: (readonly [number, number])[];
  /**
   * Which piece of the text a token is of: pieces are what the pre-tokenizer makes, words of most
   * tokenizers; `null` for tokens that are put around the text.
   */
  readonly wordIds: (number | null)[];
}

/** A token that is found in the text before anything else is looked at. */
interface Added {
  readonly id: number;
  readonly content: string;
  readonly singleWord: boolean;
  readonly left: boolean;
  readonly right: boolean;
}

/** Either text that is still to be encoded, or a token. */
type Section = { readonly text: AlignedText } | {
  readonly id: number;
  readonly start: number;
  readonly end: number;
};

/** A token of a piece of text: its id and the units of the piece that it takes. */
interface Taken {
  readonly id: number | undefined;
  readonly length: number;
  /** Whether it follows on a token that stands for the same units. */
  readonly again?: boolean;
}

/** What is read of the library's objects beside their types. */
interface Parts {
  readonly normalizers?: readonly (Normalizer | null)[];
  readonly config: JsonObject;
  readonly tokenizers?: readonly (PreTokenizer | null)[];
  readonly pattern?: RegExp | null;
}

/** How the texts of one tokenizer are encoded. */
export function createEncoder(
  backend: Backend,
  json: JsonObject,
  template: RowTemplate,
): (text: string, addSpecialTokens: boolean, losesSpaces?: boolean) => Encoding {
  const { normalizer } = backend, prepare = normalizing(normalizer);
  const all = (Array.isArray(json.added_tokens) ? json.added_tokens : []).filter(isObject);
  const isNormalized = (token: JsonObject) =>
    normalizer !== null && (token.normalized ?? !token.special) === true;
  const raw = matcher(all.filter((token) => !isNormalized(token)).map((token) => added(token)));
  const normal = matcher(
    all.filter(isNormalized).map((token) =>
      added(token, prepare(alignedText(String(token.content), 0)).text)
    ),
  );
  const preTokenize = preTokenizer(backend.pre_tokenizer, json.pre_tokenizer);
  const takeTokens = modelTokens(backend, isObject(json.model) ? json.model : {});
  const trims = trimmer(json.post_processor);
  const at = template.single.findIndex((part) => part.text === 0);
  const idsOf = (parts: readonly RowPart[]) => parts.flatMap(({ ids }) => ids);
  const before = idsOf(template.single.slice(0, at)), after = idsOf(template.single.slice(at + 1));
  return (text, addSpecialTokens, losesSpaces = false) => {
    const ids: number[] = [];
    const offsets: [number, number][] = [], wordIds: (number | null)[] = [];
    let word: number | null = null, words = 0;
    const put = (id: number, start: number, end: number) => {
      ids.push(id);
      offsets.push([start, end]);
      wordIds.push(word);
    };
    const sections = raw(alignedText(text, 0)).flatMap((section): Section[] =>
      "id" in section ? [section] : normal(prepare(section.text))
    );
    if (addSpecialTokens) { for (const id of before) put(id, 0, 0); }
    for (const section of sections) {
      if ("id" in section) {
        const { id, start, end } = section;
        word = words++;
        const [first, last] = trims === "none" ? [start, end] : trimmed(text, start, end, false);
        if (first < last) put(id, first, last);
        else put(id, losesSpaces ? end : start, end);
        continue;
      }
      for (const piece of preTokenize(section.text)) {
        let at = 0, from = 0;
        word = words++;
        for (const { id, length, again } of takeTokens(piece.text)) {
          if (!again) {
            from = at;
            at += length;
          }
          if (id === undefined) continue;
          // A space at the very start may be one that was prepended.
          const keepsFirst = trims === "not prepended" &&
            (ids.length === 0 || piece.starts[from] === 0);
          const [first, last] = trims === "none"
            ? [from, at]
            : trimmed(piece.text, from, at, keepsFirst);
          const start = piece.starts[from], end = piece.ends[at - 1] ?? start;
          const place = keepsFirst && from < at ? start : end;
          if (first < last) put(id, piece.starts[first], piece.ends[last - 1]);
          else if (from < at && !losesSpaces) put(id, start, end);
          else put(id, place, place);
        }
      }
    }
    word = null;
    if (addSpecialTokens) { for (const id of after) put(id, text.length, text.length); }
    return { ids, offsets, wordIds };
  };
}

function added(token: JsonObject, content = String(token.content)): Added {
  return {
    id: Number(token.id),
    content,
    singleWord: token.single_word === true,
    left: token.lstrip === true,
    right: token.rstrip === true,
  };
}

/** Finds added tokens in a text: the longest at each place. */
function matcher(tokens: readonly Added[]): (of: AlignedText) => Section[] {
  const known = new Map(tokens.filter(({ content }) => content).map((t) => [t.content, t]));
  if (known.size === 0) return (of) => of.text ? [{ text: of }] : [];
  const contents = [...known.keys()].sort((a, b) => b.length - a.length);
  const pattern = contents.map((content) => content.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join(
    "|",
  );
  return (of) => {
    const sections: Section[] = [];
    const search = new RegExp(pattern, "g");
    let at = 0;
    const rest = (to: number) => {
      if (to > at) sections.push({ text: slice(of, at, to) });
    };
    for (let match = search.exec(of.text); match; match = search.exec(of.text)) {
      const token = known.get(match[0])!;
      let from = match.index, to = from + match[0].length;
      const inWord = ENDS_IN_WORD.test(of.text.slice(Math.max(0, from - 2), from)) ||
        STARTS_WITH_WORD.test(of.text.slice(to, to + 2));
      if (token.singleWord && inWord) {
        search.lastIndex = from + 1;
        continue;
      }
      while (token.left && from > at && SPACE.test(of.text[from - 1])) from--;
      while (token.right && to < of.text.length && SPACE.test(of.text[to])) to++;
      rest(from);
      sections.push({ id: token.id, start: of.starts[from], end: of.ends[to - 1] });
      at = search.lastIndex = to;
    }
    rest(of.text.length);
    return sections;
  };
}

// What Rust takes for white space and for words.
const SPACE = /\p{White_Space}/u;
const ENDS_IN_WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const STARTS_WITH_WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

/** How a text is made ready; what a step needs is prepared once. */
function normalizing(normalizer: Normalizer | null): (of: AlignedText) => AlignedText {
  const { normalizers, config } = (normalizer ?? {}) as Partial<Parts>;
  if (normalizers) {
    const steps = normalizers.map(normalizing);
    return (of) => steps.reduce((text, step) => step(text), of);
  }
  if (config?.type === "Precompiled") {
    const changes = precompiledReplacements(config.precompiled_charsmap);
    return (of) => {
      const found = changes(of.text);
      return found.length ? replaceParts(of, found) : of;
    };
  }
  return (of) => normalize(of, normalizer);
}

function normalize(of: AlignedText, normalizer: Normalizer | null): AlignedText {
  if (normalizer === null || of.text === "") return of;
  const { pattern, config } = normalizer as Normalizer & Parts;
  if (config.type === "Prepend") {
    return replaceParts(of, [{ from: 0, to: 0, text: String(config.prepend ?? "") }]);
  }
  if (config.type === "Replace" && pattern) {
    const matches = of.text.matchAll(pattern);
    const content = String(config.content ?? "");
    return replaceParts(
      of,
      Array.from(matches, ({ 0: found, index }) => ({
        from: index,
        to: index + found.length,
        text: content,
      })),
    );
  }
  if (config.type === "Strip") {
    let from = 0, to = of.text.length;
    if (config.strip_left) { while (from < to && SPACE.test(of.text[from])) from++; }
    if (config.strip_right) { while (to > from && SPACE.test(of.text[to - 1])) to--; }
    return slice(of, from, to);
  }
  const lowers = config.type === "Lowercase" ||
    config.type === "BertNormalizer" && config.lowercase;
  return mapText(of, (text) => normalizer.normalize(lowers ? lowerCase(text) : text));
}

/** Character by character, without looking for the end of a Greek word. */
function lowerCase(text: string): string {
  return text.replaceAll("\u03a3", "\u03c3");
}

const ALPHABET = byteAlphabet();
const UTF8 = new TextEncoder();
// GPT-2's pattern with what Rust takes for white space.
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** How text is cut into the pieces that the vocabulary is asked about. */
function preTokenizer(
  step: PreTokenizer | null,
  json: unknown,
): (of: AlignedText) => readonly AlignedText[] {
  if (step === null || !isObject(json)) return (of) => [of];
  const { tokenizers, pattern } = step as PreTokenizer & Parts;
  switch (json.type) {
    case "Sequence": {
      const list = json.pretokenizers as readonly unknown[];
      const steps = tokenizers!.map((one, i) => preTokenizer(one, list[i]));
      return (of) => steps.reduce<readonly AlignedText[]>((all, one) => all.flatMap(one), [of]);
    }
    case "ByteLevel":
      return (of) => {
        const prefixed = json.add_prefix_space === true && !of.text.startsWith(" ");
        const whole = prefixed ? replaceParts(of, [{ from: 0, to: 0, text: " " }]) : of;
        const pieces = json.use_regex === false ? [whole] : pick(whole, whole.text.matchAll(WORDS));
        return pieces.map(spelled);
      };
    case "Metaspace": {
      const mark = String(json.str_rep ?? json.replacement ?? "▁");
      const scheme = json.prepend_scheme ?? (json.add_prefix_space === false ? "never" : "always");
      return (of) => {
        const spaced = mapText(of, (text) => text.replaceAll(" ", mark));
        const first = scheme === "always" || scheme === "first" && of.starts[0] === 0;
        const whole = first && !spaced.text.startsWith(mark)
          ? replaceParts(spaced, [{ from: 0, to: 0, text: mark }])
          : spaced;
        if (json.split === false) return [whole];
        return cut(whole, new RegExp(mark.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "g"), {
          behavior: "MergedWithNext",
        });
      };
    }
    case "Split":
      if (!pattern) return (of) => [of];
      return (of) => cut(of, pattern, json);
    case "Replace":
      return (of) => [mapText(of, (text) => step.pre_tokenize_text(text).join(""))];
    default:
      return (of) => {
        let at = 0;
        return step.pre_tokenize_text(of.text).map((text) => {
          const from = Math.max(at, of.text.indexOf(text, at));
          at = from + text.length;
          return slice(of, from, at);
        });
      };
  }
}

function pick(of: AlignedText, matches: Iterable<RegExpMatchArray>): AlignedText[] {
  return Array.from(matches, ({ 0: text, index }) => slice(of, index!, index! + text.length));
}

/** Splits at a pattern; what becomes of the matches is the `behavior`. */
function cut(
  of: AlignedText,
  pattern: RegExp,
  { behavior, invert }: { readonly behavior?: unknown; readonly invert?: unknown },
): AlignedText[] {
  const parts: { from: number; to: number; match: boolean }[] = [];
  let at = 0;
  const add = (from: number, to: number, match: boolean) => {
    if (to > from) parts.push({ from, to, match: match !== (invert === true) });
  };
  for (const { 0: text, index } of of.text.matchAll(pattern)) {
    add(at, index, false);
    add(index, index + text.length, true);
    at = index + text.length;
  }
  add(at, of.text.length, false);
  const joined: typeof parts = [];
  for (const part of parts) {
    const last = joined.at(-1);
    const joins = last !== undefined && (
      behavior === "Contiguous"
        ? part.match === last.match
        : behavior === "MergedWithPrevious"
        ? part.match && !last.match
        : behavior === "MergedWithNext" && last.match && !part.match
    );
    if (joins) joined.splice(-1, 1, { from: last.from, to: part.to, match: part.match });
    else joined.push(part);
  }
  return joined.filter(({ match }) => behavior !== "Removed" || !match)
    .map(({ from, to }) => slice(of, from, to));
}

/** A text's bytes in GPT-2's alphabet. */
function spelled(of: AlignedText): AlignedText {
  const starts: number[] = [], ends: number[] = [];
  let text = "", at = 0;
  for (const character of of.text) {
    const end = at + character.length;
    const code = character.charCodeAt(0);
    for (const byte of code < 0x80 ? [code] : UTF8.encode(character)) {
      text += ALPHABET[byte];
      starts.push(of.starts[at]);
      ends.push(of.ends[end - 1]);
    }
    at = end;
  }
  return { text, starts, ends };
}

/** How a piece becomes tokens. */
function modelTokens(backend: Backend, json: JsonObject): (piece: string) => readonly Taken[] {
  const model = backend.model as unknown as {
    bpe?(piece: string): readonly string[];
    tokenize?(piece: string): readonly string[];
    readonly unk_token_id?: number;
    readonly end_of_word_suffix?: string;
    readonly fuse_unk: boolean;
  };
  // The library puts added tokens into the model's vocabulary, where no text leads to them.
  const vocab = isObject(json.vocab) ? json.vocab : null;
  const idOf = (token: string) =>
    vocab === null || Object.hasOwn(vocab, token) ? backend.token_to_id(token) : undefined;
  const unknown = model.unk_token_id;
  const fallsBack = json.byte_fallback === true;
  const pieceTokens = (pieces: readonly string[], lengthOf: (piece: string) => number) => {
    const taken: Taken[] = [];
    for (const piece of pieces) {
      const length = lengthOf(piece);
      const id = idOf(piece);
      if (id !== undefined) {
        taken.push({ id, length });
        continue;
      }
      const bytes = fallsBack
        ? Array.from(
          UTF8.encode(piece),
          (byte) => idOf(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
        )
        : [];
      const last = taken.at(-1);
      if (bytes.length && bytes.every((byte) => byte !== undefined)) {
        bytes.forEach((byte, i) => taken.push({ id: byte, length, again: i > 0 }));
      } else if (model.fuse_unk && last && last.id === unknown) {
        taken[taken.length - 1] = { id: unknown, length: last.length + length };
      } else taken.push({ id: unknown, length });
    }
    return taken;
  };
  if (model.bpe) {
    if (json.continuing_subword_prefix) {
      throw new Error("a BPE with a prefix for what goes on in a word is not supported");
    }
    const whole = json.ignore_merges === true;
    const suffix = model.end_of_word_suffix ?? "";
    return (piece) => {
      const id = whole ? idOf(piece) : undefined;
      if (id !== undefined) return [{ id, length: piece.length }];
      const pieces = model.bpe!(piece);
      return pieceTokens(
        pieces,
        (one) => suffix && one.endsWith(suffix) ? one.length - suffix.length : one.length,
      );
    };
  }
  if (model.tokenize) {
    return (piece) => pieceTokens(model.tokenize!(piece), (one) => one.length);
  }
  const prefix = String(json.continuing_subword_prefix ?? "");
  const longest = Number(json.max_input_chars_per_word ?? 100);
  return (piece) => {
    const taken: Taken[] = [];
    const last = [...piece].length > longest ? 0 : piece.length;
    for (let from = 0; from < piece.length; from += taken.at(-1)!.length) {
      const spelled = (to: number) => (from > 0 ? prefix : "") + piece.slice(from, to);
      let to = last;
      while (to > from && idOf(spelled(to)) === undefined) to--;
      if (to === from) return [{ id: unknown, length: piece.length }];
      taken.push({ id: idOf(spelled(to)), length: to - from });
    }
    return taken;
  };
}

/** How the post-processor takes spaces at the ends of tokens from what they stand for. */
function trimmer(json: unknown): "none" | "all" | "not prepended" {
  if (!isObject(json)) return "none";
  if (json.type === "Sequence") {
    return (json.processors as unknown[]).map(trimmer).find((how) => how !== "none") ?? "none";
  }
  const trims = json.type === "ByteLevel" || json.type === "RobertaProcessing";
  if (!trims || json.trim_offsets === false) return "none";
  return json.add_prefix_space === false ? "all" : "not prepended";
}

/** The part without spaces at its ends; empty where nothing else is there. */
function trimmed(text: string, from: number, to: number, keepsFirst: boolean): [number, number] {
  const isSpace = (unit: string) => unit === ALPHABET[0x20] || SPACE.test(unit);
  let first = from, last = to;
  while (!keepsFirst && first < last && isSpace(text[first])) first++;
  while (last > first && isSpace(text[last - 1])) last--;
  return [first, last];
}
