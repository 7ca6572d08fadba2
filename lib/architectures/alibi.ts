/**
 * Scores that fall with distance (ALiBi, Press et al., 2021, arXiv:2108.12409).
 *
 * @module
 */
import { cast } from "../ops/cast.ts";
import { constant } from "../ops/constant.ts";
import { mul } from "../ops/elementwise.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";

/** What is added to scores, [H, T, S], from distances [T, S]; `slopes` has a number for each head. */
export function alibi(slopes: readonly number[]): (distance: Value) => Value {
  return (distance) => {
    const slope = constant(distance.graph, slopes, { shape: [slopes.length, 1, 1] });
    return mul(slope, reshape(cast(distance, "f32"), [1, ...distance.shape]));
  };
}

/** How much each head's scores fall by position: powers of two, and what lies between them. */
export function alibiSlopes(heads: number): number[] {
  const power = 2 ** Math.floor(Math.log2(heads));
  const base = (n: number) => 2 ** -(2 ** -(Math.log2(n) - 3));
  return Array.from(
    { length: heads },
    (_, i) => i < power ? base(power) ** (i + 1) : base(2 * power) ** (2 * (i - power) + 1),
  );
}
