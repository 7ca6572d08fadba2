/**
 * Orthogonal matrices from skew-symmetric ones: the Cayley transform, and a Neumann series that is
 * close to it and needs no inverse (Qiu et al., 2025, arXiv:2506.19847).
 *
 * @module
 */
import { add, mul, sub } from "../ops/elementwise.ts";
import { concat } from "../ops/concat.ts";
import { constant } from "../ops/constant.ts";
import { gather } from "../ops/gather.ts";
import { inverse } from "../ops/inverse.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Graph, Value } from "../ops/value.ts";

/** The identity [side, side]. */
export function identity(graph: Graph, side: number): Value {
  const diagonal = Array.from({ length: side ** 2 }, (_, i) => i % (side + 1) ? 0 : 1);
  return constant(graph, diagonal, { shape: [side, side] });
}

/** A skew-symmetric matrix per row of `v`, which holds its upper triangle row by row. */
export function skewSymmetric(v: Value, side: number): Value {
  const [blocks, count] = v.shape;
  if (count === 0) return constant(v.graph, 0, { shape: [blocks, side, side] });
  // Each element is one of the row, or the zero behind it.
  let next = 0;
  const places = Array.from(
    { length: side ** 2 },
    (_, i) => Math.floor(i / side) < i % side ? next++ : count,
  );
  const table = concat([transpose(v), constant(v.graph, 0, { shape: [1, blocks] })], { axis: 0 });
  const upper = reshape(
    transpose(gather(table, constant(v.graph, places, { dtype: "i32" }))),
    [blocks, side, side],
  );
  return sub(upper, transpose(upper));
}

/** (I − Q)·(I + Q)⁻¹ of matrices [blocks, side, side]. */
export function cayley(q: Value): Value {
  const one = identity(q.graph, q.shape.at(-1)!);
  return matmul(sub(one, q), inverse(add(one, q)));
}

/**
 * I + 2·(Q + …) + Qⁿ, which is nearly the Cayley transform of −Q: the last power counts once; three
 * and four terms are the same in PEFT.
 */
export function cayleyNeumann(q: Value, terms: number): Value {
  const one = identity(q.graph, q.shape.at(-1)!);
  if (terms <= 1) return add(mul(q, 0), one);
  let series = add(one, mul(q, 2)), power = q;
  if (terms === 2) return series;
  const last = Math.max(terms - 1, 3);
  for (let n = 2; n <= last; n++) {
    power = matmul(power, q);
    series = add(series, n < last ? mul(power, 2) : power);
  }
  return series;
}
