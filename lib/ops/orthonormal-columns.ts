/**
 * The orthonormal columns of a QR decomposition, made of primitives: for matrices of few columns.
 *
 * @module
 */
import { constant } from "./constant.ts";
import { abs, add, div, greaterEqual, mul, neg, sqrt, sub } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { sum } from "./reduce.ts";
import { select } from "./select.ts";
import { slice } from "./slice.ts";
import type { Value } from "./value.ts";

/**
 * Q [rows, columns] of the QR decomposition of a matrix of full rank with at least as many rows as
 * columns, by Householder's reflections (1958), with LAPACK's signs. Gradients go through it.
 *
 * @param x The matrix, f32. It takes some ten operations a column.
 */
export function orthonormalColumns(x: Value): Value {
  const { graph, shape: [rows, columns] } = x;
  const marked = (holds: (i: number) => boolean) =>
    constant(graph, Array.from({ length: rows }, (_, i) => Number(holds(i))), {
      shape: [rows, 1],
    });
  const reflections: ((a: Value) => Value)[] = [];
  let rest = x;
  // The last row has nothing below it, and LAPACK does not reflect it.
  for (let k = 0; k < Math.min(columns, rows - 1); k++) {
    const column = mul(
      slice(rest, { starts: [0, k], sizes: [rows, 1] }),
      marked((i) => i >= k),
    );
    const head = slice(column, { starts: [k, 0], sizes: [1, 1] });
    const length = sqrt(sum(mul(column, column), { axes: [0], keepDims: true }));
    // Away from the head's sign, so that nothing cancels.
    const away = select(greaterEqual(head, 0), length, neg(length));
    const v = add(column, mul(marked((i) => i === k), away));
    const w = div(v, mul(length, add(length, abs(head))));
    const reflect = (a: Value) => sub(a, matmul(v, matmul(w, a, { transposeA: true })));
    reflections.push(reflect);
    rest = reflect(rest);
  }
  const ones = (_: unknown, i: number) => Number(i % (columns + 1) === 0 && i < columns ** 2);
  const diagonal = Array.from({ length: rows * columns }, ones);
  return reflections.reduceRight(
    (q, reflect) => reflect(q),
    constant(graph, diagonal, { shape: [rows, columns] }),
  );
}
