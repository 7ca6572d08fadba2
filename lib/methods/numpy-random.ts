/**
 * Random numbers as numpy's `default_rng(seed)` gives them: PCG64 (O'Neill, 2014), seeded as numpy
 * seeds it.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { show } from "../options.ts";

/** A stream of random numbers. Each call moves it on. */
export interface NumpyRandom {
  /** Words of 32 bits, as `integers(0, 2**32, size, dtype=numpy.uint32)`. */
  words(size: number): Uint32Array<ArrayBuffer>;
  /** Different numbers from 0 up to, not including, `population`, as `choice(population, size, replace=False)`. */
  choice(population: number, size: number): Int32Array<ArrayBuffer>;
  /** The values in another order, as `shuffle(values)`. */
  shuffled(values: Int32Array): Int32Array<ArrayBuffer>;
}

/**
 * Random numbers as after `numpy.random.default_rng(seed)`.
 *
 * @param seed A whole number from 0 on.
 * @throws {ValueError} for anything else.
 *
 * @example
 * ```ts
 * import { createNumpyRandom } from "./numpy-random.ts";
 * console.log(createNumpyRandom(42).choice(7, 3)); // [6, 0, 4]
 * ```
 */
export function createNumpyRandom(seed: number): NumpyRandom {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new ValueError(
      "SEED",
      `A seed of numpy is a whole number from 0 on; found ${show(seed)}.`,
    );
  }
  const word = wordsFrom(seed);

  /** A number from 0 to `last` by a product (Lemire, 2019). */
  function scaled(last: number): number {
    if (last === 0) return 0;
    const count = last + 1;
    let drawn = word();
    let left = Math.imul(drawn, count) >>> 0;
    if (left < count) {
      const threshold = (2 ** 32 - count) % count;
      while (left < threshold) {
        drawn = word();
        left = Math.imul(drawn, count) >>> 0;
      }
    }
    // The upper half of the product, of which no part is beyond 53 bits.
    const high = (drawn >>> 16) * count, low = (drawn & 0xffff) * count;
    return Math.floor((high + Math.floor(low / 2 ** 16)) / 2 ** 16);
  }

  /** A number from 0 to `last`, the first that its lower bits alone give. */
  function masked(last: number): number {
    const mask = 2 ** (32 - Math.clz32(last)) - 1;
    for (;;) {
      const drawn = (word() & mask) >>> 0;
      if (drawn <= last) return drawn;
    }
  }

  /** Puts elements in their places, from the last to that of number `first`. */
  function shuffle(
    values: Int32Array,
    { first, draw }: { readonly first: number; readonly draw: (last: number) => number },
  ): void {
    for (let i = values.length - 1; i >= first; i--) {
      const j = draw(i);
      [values[i], values[j]] = [values[j], values[i]];
    }
  }

  return {
    words: (size) => Uint32Array.from({ length: size }, word),
    choice(population, size) {
      // Where many of many are chosen, the end of a permutation is made.
      if (population > 10_000 && size > Math.floor(population / 50)) {
        const all = Int32Array.from({ length: population }, (_, i) => i);
        shuffle(all, { first: Math.max(population - size, 1), draw: scaled });
        return all.slice(population - size);
      }
      // Floyd's algorithm (Bentley and Floyd, 1987).
      const chosen = new Set<number>();
      for (let j = population - size; j < population; j++) {
        const drawn = scaled(j);
        chosen.add(chosen.has(drawn) ? j : drawn);
      }
      const out = Int32Array.from(chosen);
      shuffle(out, { first: 1, draw: scaled });
      return out;
    },
    shuffled(values) {
      const out = Int32Array.from(values);
      shuffle(out, { first: 1, draw: masked });
      return out;
    },
  };
}

const MASK_64 = (1n << 64n) - 1n, MASK_128 = (1n << 128n) - 1n;
const MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;

/** The words of PCG64 with 128 bits of state: of each 64 bits the lower half comes first. */
function wordsFrom(seed: number): () => number {
  const seeds = seedWords(seed);
  const wide = (at: number) =>
    [1, 0, 3, 2].reduce((n, i) => (n << 32n) | BigInt(seeds[at + i]), 0n);
  const increment = ((wide(4) << 1n) | 1n) & MASK_128;
  const step = (state: bigint) => (state * MULTIPLIER + increment) & MASK_128;
  let state = step((increment + wide(0)) & MASK_128);
  let spare: number | undefined;
  return () => {
    if (spare !== undefined) {
      const word = spare;
      spare = undefined;
      return word;
    }
    state = step(state);
    const folded = (state >> 64n) ^ (state & MASK_64), turn = state >> 122n;
    const bits = ((folded >> turn) | (folded << (64n - turn))) & MASK_64;
    spare = Number(bits >> 32n);
    return Number(bits & 0xffffffffn);
  };
}

/** What numpy's `SeedSequence` makes of a seed: eight words, mixed in a pool of four. */
function seedWords(seed: number): Uint32Array {
  const entropy = seed < 2 ** 32 ? [seed] : [seed >>> 0, Math.floor(seed / 2 ** 32)];
  const hashing = (start: number, multiplier: number) => {
    let constant = start;
    return (x: number) => {
      const mixed = x ^ constant;
      constant = Math.imul(constant, multiplier);
      return folded(Math.imul(mixed, constant));
    };
  };
  const hash = hashing(0x43b0d7e5, 0x931e8875);
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (const from of pool.keys()) {
    for (const to of pool.keys()) {
      if (from === to) continue;
      const other = hash(pool[from]);
      pool[to] = folded(Math.imul(0xca01f9dd, pool[to]) - Math.imul(0x4973f715, other));
    }
  }
  const last = hashing(0x8b51f9dd, 0x58f38ded);
  return Uint32Array.from({ length: 8 }, (_, i) => last(pool[i % 4]));
}

function folded(x: number): number {
  return (x ^ (x >>> 16)) >>> 0;
}
