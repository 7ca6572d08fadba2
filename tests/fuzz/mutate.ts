/**
 * Seeded damage to files: to bytes, to JSON and to text.
 *
 * @module
 */

/** A stream of random choices that is the same for the same seed and index. */
export interface Random {
  /** A whole number from 0 up to, not including, `n`. */
  below(n: number): number;
  /** One of these. */
  pick<T>(of: readonly T[]): T;
  /** True with this probability. */
  chance(probability: number): boolean;
}

/** The choices of one mutation (a 32-bit generator by Tommy Ettinger, "mulberry32"). */
export function createRandom(seed: number, index: number): Random {
  let state = Math.imul(seed + 0x9e3779b9, 0x85ebca6b) ^ Math.imul(index + 1, 0xc2b2ae35);
  const next = () => {
    state = state + 0x6d2b79f5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
  for (let i = 0; i < 4; i++) next();
  const below = (n: number) => Math.floor(next() * n);
  return { below, pick: (of) => of[below(of.length)], chance: (p) => next() < p };
}

/** Text of JSON that is written as it is, such as a number that JavaScript would write otherwise. */
class Raw {
  constructor(readonly text: string) {}
}

const NUMBERS = [
  ...["0", "-1", "-0", "1", "2", "3", "0.5", "1e-30", "1e9", "20000", "2147483647", "4294967296"],
  ...["9007199254740992", "9007199254740993", "1e30", "1e308", "1e999", "-1e308", "NaN"],
];
const STRINGS = [
  ...["", "\0", "a\0b", "\ud800", "x\udfffy", "../../x", "constructor", "__proto__", "toString"],
  ...[
    "(a+)+$",
    "(.*)*x",
    "((a|a)*)*b",
    "(",
    "\\",
    "[",
    "{{",
    "%",
    "\u202e",
    "é",
    "💥",
    "all-linear",
  ],
  "x".repeat(100_000),
  "a.".repeat(50_000),
];
const KEYS = ["constructor", "__proto__", "toString", "hasOwnProperty", "", "\0", "length", "then"];

type Node = unknown;

function hostile(random: Random): Node {
  switch (random.below(12)) {
    case 0:
    case 1:
    case 2:
      return new Raw(random.pick(NUMBERS));
    case 3:
    case 4:
    case 5:
      return random.pick(STRINGS);
    case 6:
      return null;
    case 7:
      return random.chance(0.5);
    case 8:
      return random.pick([[], {}, [null], [[]], { a: {} }]);
    case 9: {
      const depth = random.pick([10, 1000, 100_000]);
      return random.chance(0.5)
        ? new Raw("[".repeat(depth) + "]".repeat(depth))
        : new Raw('{"a":'.repeat(depth) + "1" + "}".repeat(depth));
    }
    case 10: {
      const item = random.pick(["1", '"q_proj"', "null", "[]", '{"id":1}']);
      return new Raw(`[${Array(100_000).fill(item).join()}]`);
    }
    default: {
      const isList = random.chance(0.5);
      const names = Array.from({ length: isList ? 100_000 : 30_000 }, (_, i) => `"name_${i}"`);
      return new Raw(isList ? `[${names.join()}]` : `{${names.map((n, i) => `${n}:${i}`).join()}}`);
    }
  }
}

/** An object as its entries, so that it can have any key, and one twice. */
class Entries {
  constructor(readonly entries: [string, Node][]) {}
}

function open(value: Node): Node {
  if (Array.isArray(value)) return value.map(open);
  if (typeof value !== "object" || value === null || value instanceof Raw) return value;
  return new Entries(Object.entries(value).map(([key, of]) => [key, open(of)]));
}

function write(value: Node): string {
  if (value instanceof Raw) return value.text;
  if (Array.isArray(value)) return `[${value.map(write).join()}]`;
  if (value instanceof Entries) {
    return `{${value.entries.map(([key, of]) => `${JSON.stringify(key)}:${write(of)}`).join()}}`;
  }
  return JSON.stringify(value) ?? "null";
}

/** A place that holds a value, found by going down at random. */
function descend(
  root: Entries,
  random: Random,
): { get(): Node; set(value: Node): void; at: Node; index: number } {
  let at: Node = root;
  for (;;) {
    const list: unknown[] = at instanceof Entries ? at.entries : at as unknown[];
    const index = random.below(list.length), here = at;
    const place = here instanceof Entries
      ? {
        get: () => here.entries[index][1],
        set: (value: Node) => void (here.entries[index][1] = value),
      }
      : { get: () => list[index], set: (value: Node) => void (list[index] = value) };
    const inner = place.get();
    const size = inner instanceof Entries
      ? inner.entries.length
      : Array.isArray(inner)
      ? inner.length
      : 0;
    if (size === 0 || random.chance(0.25)) return { ...place, at: here, index };
    at = inner;
  }
}

/** JSON text of an object with a few fields that are gone, new, of another type or extreme. */
export function mutateJson(value: object, random: Random): string {
  const root = open(value) as Entries;
  const times = random.pick([1, 1, 1, 2, 3]);
  for (let i = 0; i < times && root.entries.length; i++) {
    const place = descend(root, random);
    const list = (place.at instanceof Entries ? place.at.entries : place.at) as unknown[];
    const old = place.get();
    switch (random.below(8)) {
      case 0:
        list.splice(place.index, 1);
        break;
      case 1:
        // A key that comes twice is refused whatever it says.
        if (place.at instanceof Entries && random.chance(0.9)) place.set(hostile(random));
        else list.splice(place.index, 0, list[random.below(list.length)]);
        break;
      case 2:
        if (place.at instanceof Entries) place.at.entries[place.index][0] = random.pick(KEYS);
        else list.push(hostile(random));
        break;
      case 3:
        if (place.at instanceof Entries) {
          place.at.entries.push([random.pick(KEYS), hostile(random)]);
        } else list.reverse();
        break;
      case 4:
      case 5:
        if (typeof old === "number") {
          place.set(new Raw(random.pick(NUMBERS)));
          break;
        }
        if (typeof old === "string") {
          place.set(random.chance(0.5) ? random.pick(STRINGS) : mutateText(old, random));
          break;
        }
        /* falls through */
      default:
        place.set(hostile(random));
    }
  }
  const text = write(root);
  return random.chance(0.1) ? mutateText(text, random) : text;
}

/** Text with pieces that are gone, doubled, swapped or new. */
export function mutateText(text: string, random: Random, more: readonly string[] = []): string {
  let out = text;
  const times = random.pick([1, 1, 2, 4]);
  for (let i = 0; i < times; i++) {
    const at = random.below(out.length + 1), end = Math.min(out.length, at + 1 + random.below(8));
    switch (random.below(6)) {
      case 0:
        out = out.slice(0, at) + out.slice(end);
        break;
      case 1:
        out = out.slice(0, at) + out.slice(at, end).repeat(1 + random.below(3)) + out.slice(at);
        break;
      case 2:
        out = out.slice(0, at);
        break;
      case 3:
        out = out.slice(0, at) +
          String.fromCharCode(
            random.pick([0, 10, 34, 92, 123, 125, 0xd800, random.below(0x3000)]),
          ) + out.slice(at);
        break;
      default:
        out = out.slice(0, at) + random.pick([...STRINGS, ...more, ...more]) +
          out.slice(random.chance(0.5) ? at : end);
    }
  }
  return out;
}

const WORDS = [0n, 1n, -1n, 1n << 31n, 1n << 32n, 1n << 53n, 1n << 62n, 1_000_000_000n, 20_000n];

/** Bytes of which some are others, gone, new or doubled; in the first `head` of them more often. */
export function mutateBytes(
  bytes: Uint8Array,
  random: Random,
  head = bytes.length,
): Uint8Array<ArrayBuffer> {
  let out = new Uint8Array(bytes);
  const times = random.pick([1, 1, 1, 2, 4, 16]);
  for (let i = 0; i < times && out.length; i++) {
    const at = random.below(random.chance(0.9) ? Math.min(head, out.length) : out.length);
    const end = Math.min(out.length, at + 1 + random.below(16));
    const splice = (insert: Uint8Array, until: number) => {
      const next = new Uint8Array(at + insert.length + out.length - until);
      next.set(out.subarray(0, at));
      next.set(insert, at);
      next.set(out.subarray(until), at + insert.length);
      out = next;
    };
    switch (random.below(8)) {
      case 0:
      case 1:
        out[at] ^= 1 << random.below(8);
        break;
      case 2:
        out[at] = random.below(256);
        break;
      case 3:
        splice(Uint8Array.from({ length: 1 + random.below(8) }, () => random.below(256)), at);
        break;
      case 4:
        splice(new Uint8Array(), end);
        break;
      case 5:
        splice(out.slice(at, end), at);
        break;
      case 6:
        if (i === 0) out = out.slice(0, at);
        break;
      default: {
        const width = random.pick([4, 8]), view = new DataView(out.buffer);
        if (at + width > out.length) break;
        const word = random.pick(WORDS);
        if (width === 8) view.setBigInt64(at, word, true);
        else view.setInt32(at, Number(BigInt.asIntN(32, word)), true);
      }
    }
  }
  return out;
}
