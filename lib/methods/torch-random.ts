/**
 * Random numbers as torch's CPU generator gives them, so that an adapter starts with the values
 * that it has in Python after `torch.manual_seed`. The generator is the Mersenne Twister MT19937
 * (Matsumoto and Nishimura, 1998).
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { show } from "../options.ts";

/**
 * A stream of random numbers. Each call moves it on; made anew from the same seed it gives the same
 * numbers. It belongs to one initialization and is not shared.
 */
export interface TorchRandom {
  /** Uniform in [low, high), as `tensor.uniform_` of a float32 tensor of this size. */
  uniform(
    size: number,
    range?: { readonly low?: number; readonly high?: number },
  ): Float32Array<ArrayBuffer>;
  /** Normal, as `tensor.normal_` and `torch.randn` of a float32 tensor of this size. */
  normal(
    size: number,
    parameters?: { readonly mean?: number; readonly std?: number },
  ): Float32Array<ArrayBuffer>;
  /** Whole numbers from 0 up to, not including, `limit`, as `torch.randint(limit, (size,))`. */
  integers(size: number, limit: number): Int32Array<ArrayBuffer>;
  /**
   * The first `count` (all by default) of a permutation of 0 … size − 1, as `torch.randperm`. Fewer
   * than all may move the stream on by less.
   */
  permutation(size: number, count?: number): Int32Array<ArrayBuffer>;
  /**
   * For each of `size` elements 1 with this probability, else 0, as `torch.bernoulli` of a float32
   * tensor that is filled with it.
   */
  bernoulli(size: number, probability: number): Uint8Array<ArrayBuffer>;
  /** One number for each concentration, as `torch._standard_gamma` of a float32 tensor of them. */
  gamma(concentrations: Iterable<number>): Float32Array<ArrayBuffer>;
  /** Moves on as `uniform(size)` would, without making the numbers. */
  skip(size: number): void;
  /** Another stream that goes on from where this one is, independently of it. */
  fork(): TorchRandom;
}

const LENGTH = 624, MIDDLE = 397;

/** From which size on permutations take 64 bits for each place. */
const LONG = Math.floor((2 ** 32 - 1) / 20);

/**
 * Random numbers as after `torch.manual_seed(seed)`.
 *
 * @param seed A whole number; as in torch, only its lower 32 bits count.
 * @throws {ValueError} for anything else.
 *
 * @example
 * ```ts
 * import { createTorchRandom } from "./torch-random.ts";
 * // torch.manual_seed(0); torch.rand(2)
 * console.log(createTorchRandom(0).uniform(2)); // [0.4963, 0.7682]
 * ```
 */
export function createTorchRandom(seed: number): TorchRandom {
  checkSeed(seed);
  const state = new Int32Array(LENGTH);
  state[0] = Number(BigInt.asIntN(32, BigInt(seed)));
  for (let i = 1; i < LENGTH; i++) {
    const x = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, x) + i;
  }
  return stream(state, LENGTH);
}

/**
 * The numbers that follow from a state.
 *
 * @param state The words of the generator, which it goes on changing.
 * @param next The first word that is not used up.
 * @param spare The second of a pair of normal numbers, which waits for the next small tensor.
 */
function stream(state: Int32Array<ArrayBuffer>, next: number, spare?: number): TorchRandom {
  function refill(): void {
    for (let i = 0; i < LENGTH - MIDDLE; i++) {
      state[i] = state[i + MIDDLE] ^ twist(state[i], state[i + 1]);
    }
    for (let i = LENGTH - MIDDLE; i < LENGTH - 1; i++) {
      state[i] = state[i + MIDDLE - LENGTH] ^ twist(state[i], state[i + 1]);
    }
    state[LENGTH - 1] = state[MIDDLE - 1] ^ twist(state[LENGTH - 1], state[0]);
    next = 0;
  }

  function bits32(): number {
    if (next === LENGTH) refill();
    return temper(state[next++]);
  }

  /** A whole number of 64 bits modulo one below 2³¹, 16 bits at a time. */
  function bits64Modulo(n: number): number {
    const high = (bits32() >>> 0) % n, low = bits32() >>> 0;
    return ((high * 2 ** 16 + (low >>> 16)) % n * 2 ** 16 + (low & 0xffff)) % n;
  }

  /** Fills a part of an array with 24-bit uniform numbers. */
  function fill(out: Float32Array, begin: number): void {
    for (let i = begin; i < out.length;) {
      if (next === LENGTH) refill();
      const end = Math.min(out.length, i + LENGTH - next);
      while (i < end) out[i++] = (temper(state[next++]) & 0xffffff) * 2 ** -24;
    }
  }

  /** A uniform number of 53 bits. */
  function double(): number {
    const high = bits32() & 0x1fffff;
    return (high * 2 ** 32 + (bits32() >>> 0)) * 2 ** -53;
  }

  function smallNormal(): number {
    if (spare !== undefined) {
      const value = spare;
      spare = undefined;
      return value;
    }
    const angle = 2 * Math.PI * double();
    const radius = Math.sqrt(-2 * Math.log1p(-double()));
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** A number of the gamma distribution (Marsaglia and Tsang, 2000). */
  function smallGamma(concentration: number): number {
    const { fround } = Math, isSmall = concentration < 1;
    const scale = isSmall ? Math.pow(1 - double(), fround(1 / concentration)) : 1;
    const d = fround(fround(isSmall ? concentration + 1 : concentration) - fround(1 / 3));
    const c = 1 / Math.sqrt(9 * d);
    for (;;) {
      let x: number, y: number;
      do {
        x = smallNormal();
        y = 1 + c * x;
      } while (y <= 0);
      const v = y * y * y, u = 1 - double(), square = x * x;
      const fast = u < 1 - fround(0.0331) * square * square;
      if (fast || Math.log(u) < 0.5 * square + d * (1 - v + Math.log(v))) return scale * d * v;
    }
  }

  return {
    uniform(size, { low = 0, high = 1 } = {}) {
      const out = new Float32Array(size);
      fill(out, 0);
      const from = Math.fround(low), width = Math.fround(Math.fround(high) - from);
      // One rounding for both steps, as in a fused multiply-add.
      if (from !== 0 || width !== 1) {
        for (let i = 0; i < size; i++) {
          out[i] = out[i] * width + from;
        }
      }
      return out;
    },
    normal(size, { mean = 0, std = 1 } = {}) {
      const out = new Float32Array(size);
      if (size < 16) {
        for (let i = 0; i < size; i++) out[i] = smallNormal() * std + mean;
        return out;
      }
      fill(out, 0);
      const scale = { mean: Math.fround(mean), std: Math.fround(std) };
      for (let i = 0; i + 16 <= size; i += 16) boxMuller(out, i, scale);
      if (size % 16) {
        // What does not fill a block of 16 is made with the last 16, all from new numbers.
        fill(out, size - 16);
        boxMuller(out, size - 16, scale);
      }
      return out;
    },
    integers: (size, limit) => Int32Array.from({ length: size }, () => (bits32() >>> 0) % limit),
    permutation(size, count = size) {
      const out = new Int32Array(size);
      if (size >= LONG) {
        for (let i = 0; i < size; i++) {
          const j = bits64Modulo(i + 1);
          out[i] = out[j];
          out[j] = i;
        }
        return out.slice(0, count);
      }
      for (let i = 0; i < size; i++) out[i] = i;
      // What is left of a shuffle changes nothing before it.
      for (let i = 0; i < Math.min(count, size - 1); i++) {
        const j = i + (bits32() >>> 0) % (size - i);
        [out[i], out[j]] = [out[j], out[i]];
      }
      return out.slice(0, count);
    },
    bernoulli(size, probability) {
      const out = new Uint8Array(size);
      const limit = Math.fround(probability);
      for (let i = 0; i < size; i++) {
        out[i] = (bits32() & 0xffffff) * 2 ** -24 < limit ? 1 : 0;
      }
      return out;
    },
    gamma: (concentrations) => Float32Array.from(concentrations, smallGamma),
    skip(size) {
      for (let left = size; left > 0;) {
        if (next === LENGTH) refill();
        const step = Math.min(left, LENGTH - next);
        next += step;
        left -= step;
      }
    },
    fork: () => stream(state.slice(), next, spare),
  };
}

/**
 * Refuses what is no seed, before anything is computed from it.
 *
 * @throws {ValueError} `SEED`.
 */
export function checkSeed(seed: number): void {
  if (Number.isSafeInteger(seed)) return;
  throw new ValueError("SEED", `A seed must be a whole number; found ${show(seed)}.`, { seed });
}

function twist(a: number, b: number): number {
  const x = (a & 0x80000000) | (b & 0x7fffffff);
  return (x >>> 1) ^ (b & 1 ? 0x9908b0df : 0);
}

function temper(x: number): number {
  x ^= x >>> 11;
  x ^= (x << 7) & 0x9d2c5680;
  x ^= (x << 15) & 0xefc60000;
  return x ^ (x >>> 18);
}

const TWO_PI = Math.fround(2 * Math.PI);

/**
 * Turns 16 uniform numbers into normal ones: 8 radii, then 8 angles (Box and Muller, 1958), rounded
 * to float32 at each step as torch does.
 */
function boxMuller(
  out: Float32Array,
  begin: number,
  { mean, std }: { readonly mean: number; readonly std: number },
): void {
  const { fround } = Math;
  for (let i = begin; i < begin + 8; i++) {
    const radius = fround(Math.sqrt(fround(-2 * fround(Math.log(1 - out[i])))));
    const angle = fround(TWO_PI * out[i + 8]);
    out[i] = fround(radius * fround(Math.cos(angle))) * std + mean;
    out[i + 8] = fround(radius * fround(Math.sin(angle))) * std + mean;
  }
}
