/**
 * Random numbers from a counter: the same place in the same stream always holds the same number.
 *
 * @module
 */

/** Where a random number is taken from; all whole numbers. */
export interface RandomPlace {
  /** Which sequence of streams. */
  readonly seed: number;
  /** Which stream; 0 by default. */
  readonly stream?: number;
  /** Which number of the stream. */
  readonly index: number;
}

/**
 * 32 random bits, by two rounds of multiply–xor-shift mixing: `mix(index ^ mix(stream ^
 * mix(seed)))` with Ellis's "lowbias32", the generator of the operation `dropoutMask`.
 */
export function randomBits({ seed, stream = 0, index }: RandomPlace): number {
  return mix(index ^ mix(stream ^ mix(seed)));
}

/** Ellis's "lowbias32". */
export function mix(x: number): number {
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  x ^= x >>> 16;
  return x >>> 0;
}

/** A number from 0 up to, but not including, 1. */
export function randomUniform(place: RandomPlace): number {
  return randomBits(place) / 2 ** 32;
}

/** Numbers of mean 0 and standard deviation `std`, by the method of Box and Muller (1958). */
export function randomNormal(
  count: number,
  options: { readonly seed: number; readonly stream?: number; readonly std?: number },
): Float32Array {
  const { seed, stream, std = 1 } = options;
  const out = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const u = 1 - randomUniform({ seed, stream, index: i });
    const angle = 2 * Math.PI * randomUniform({ seed, stream, index: i + 1 });
    const radius = std * Math.sqrt(-2 * Math.log(u));
    out[i] = radius * Math.cos(angle);
    if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/**
 * The numbers 0 … count − 1 in random order, by the method of Fisher and Yates (Durstenfeld, 1964).
 */
export function randomOrder(
  count: number,
  options: { readonly seed: number; readonly stream?: number },
): number[] {
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(randomUniform({ ...options, index: i }) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
