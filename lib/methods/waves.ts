/**
 * The matrices of discrete Fourier transforms.
 *
 * @module
 */
import { cast } from "../ops/cast.ts";
import { add, cos, div, mul, sin, sub } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";

/** Real and imaginary parts of waves. */
export interface Waves {
  readonly cosines: Value;
  readonly sines: Value;
}

/**
 * The first `steps` points, or all, of waves of frequencies [n], which are whole numbers from 0 to the
 * size of a period: as columns [steps, n] or as rows [n, steps].
 */
export function waves(
  frequencies: Value,
  size: number,
  { as, steps = size }: { readonly as: "columns" | "rows"; readonly steps?: number },
): Waves {
  const modulo = (x: Value, n: number) => sub(x, mul(div(x, n), n));
  const step = iota(frequencies.graph, as === "rows" ? [1, steps] : [steps, 1], {
    axis: as === "rows" ? 1 : 0,
  });
  const turns = reshape(frequencies, as === "rows" ? [-1, 1] : [1, -1]);
  // In two parts where i32 does not hold the product, as of two sizes of vocabularies.
  const high = () => mul(modulo(mul(div(step, PART), turns), size), PART);
  const product = size ** 2 < 2 ** 31
    ? mul(step, turns)
    : add(high(), mul(modulo(step, PART), turns));
  const place = modulo(product, size);
  // One period, and what is looked up in it.
  const angle = mul(
    cast(iota(frequencies.graph, [size, 1], { axis: 0 }), "f32"),
    2 * Math.PI / size,
  );
  const look = (period: Value) => reshape(gather(period, place), place.shape);
  return { cosines: look(cos(angle)), sines: look(sin(angle)) };
}

const PART = 256;
