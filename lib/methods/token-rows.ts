/**
 * Rows in the place of those of an embedding, or of a linear layer.
 *
 * @module
 */
import type { ForwardPass } from "../model/forward-pass.ts";
import type { Site } from "../model/site.ts";
import { lookup } from "../model/weight.ts";
import { add, equal, mul, sub } from "../ops/elementwise.ts";
import { cast } from "../ops/cast.ts";
import { constant } from "../ops/constant.ts";
import { gather, scatterAdd } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";

/** Rows and their numbers. */
export interface Rows {
  /** [N, D] */
  readonly rows: Value;
  /** N numbers of rows. The last one counts where one occurs several times. */
  readonly indices: readonly number[];
}

/** The rows that count. */
function lastOfEach({ rows, indices }: Rows): Rows {
  const last = indices.flatMap((index, i) => indices.lastIndexOf(index) === i ? [i] : []);
  if (last.length === indices.length) return { rows, indices };
  return {
    rows: gather(rows, constant(rows.graph, last, { dtype: "i32" })),
    indices: last.map((i) => indices[i]),
  };
}

/** A site's output with these rows in the place of the weight's own. */
export function withRows(
  at: { readonly pass: ForwardPass; readonly site: Site },
  call: { readonly x: Value; readonly result: Value },
  given: Rows,
): Value {
  const { pass, site } = at, { x, result } = call, { rows, indices } = lastOfEach(given);
  const n = indices.length, ids = constant(pass.graph, indices, { dtype: "i32" });
  if (site.kind === "embedding") {
    const hits = cast(equal(reshape(x, [...x.shape, 1]), ids), "f32");
    const kept = sub(1, sum(hits, { axes: [-1], keepDims: true }));
    return add(mul(result, kept), matmul(hits, rows));
  }
  const old = lookup(pass.weight(`${site.path}.weight`), ids);
  const change = matmul(x, sub(rows, old), { transposeB: true });
  const columns = equal(
    iota(pass.graph, [n, site.outFeatures], { axis: 1 }),
    reshape(ids, [n, 1]),
  );
  return add(result, matmul(change, cast(columns, "f32")));
}

/**
 * A weight with these rows in the place of its own: the difference to those of `old` is added at their
 * numbers.
 */
export function mergedRows(weight: Value, old: Value, given: Rows): Value {
  const { rows, indices } = lastOfEach(given);
  const ids = constant(weight.graph, indices, { dtype: "i32" });
  const difference = sub(rows, gather(old, ids));
  return add(weight, scatterAdd(difference, ids, { rows: weight.shape[0] }));
}
