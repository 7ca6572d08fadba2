import { assert, assertAlmostEquals, assertEquals, assertLess } from "@std/assert";
import {
  approximateSvd,
  type FlatMatrix,
  flatMatrix,
  leadingQr,
  type LeadingSvd,
  leadingSvd,
  matrixProduct,
  orthonormalColumns,
  rowProducts,
  transposed,
} from "../../lib/methods/linalg.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";

function random(rows: number, columns: number, seed = 1): FlatMatrix {
  return flatMatrix(createTorchRandom(seed).normal(rows * columns), { rows, columns });
}

function diagonal(values: ArrayLike<number>): FlatMatrix {
  const n = values.length;
  const data = new Float64Array(n * n);
  for (let i = 0; i < n; i++) data[i * n + i] = values[i];
  return { rows: n, columns: n, data };
}

function largestDifference(a: FlatMatrix, b: FlatMatrix): number {
  assertEquals([a.rows, a.columns], [b.rows, b.columns]);
  return a.data.reduce((m, x, i) => Math.max(m, Math.abs(x - b.data[i])), 0);
}

function rebuilt({ u, s, v }: LeadingSvd): FlatMatrix {
  return matrixProduct(transposed(matrixProduct(diagonal(s), u)), v);
}

function assertOrthonormalRows(a: FlatMatrix): void {
  const identity = diagonal(new Float64Array(a.rows).fill(1));
  assertLess(largestDifference(rowProducts(a, a), identity), 1e-11);
}

/** A matrix with these singular values. */
function withSingularValues(
  values: ArrayLike<number>,
  { rows, columns }: { readonly rows: number; readonly columns: number },
): FlatMatrix {
  const k = values.length;
  const left = orthonormalColumns(random(rows, k, 2)),
    right = orthonormalColumns(random(columns, k, 3));
  return rowProducts(matrixProduct(left, diagonal(values)), right);
}

Deno.test("products of odd and even shapes", () => {
  for (const [m, k, n] of [[1, 1, 1], [3, 4, 5], [2, 7, 6], [5, 2, 1], [4, 3, 2]]) {
    const a = random(m, k), b = random(n, k, 7);
    const expected = Float64Array.from({ length: m * n }, (_, i) => {
      let sum = 0;
      for (let p = 0; p < k; p++) {
        sum += a.data[Math.floor(i / n) * k + p] * b.data[(i % n) * k + p];
      }
      return sum;
    });
    const found = rowProducts(a, b);
    assertLess(largestDifference(found, { rows: m, columns: n, data: expected }), 1e-14);
    assertEquals(matrixProduct(a, transposed(b)), found);
  }
});

Deno.test("QR: orthonormal, triangular, and with LAPACK's signs", () => {
  for (const [rows, columns] of [[9, 4], [4, 9], [6, 6]]) {
    const a = random(rows, columns);
    const k = Math.min(rows, columns);
    const { q, r } = leadingQr(a, k);
    assertOrthonormalRows(transposed(q));
    assertLess(largestDifference(matrixProduct(q, r), a), 1e-13);
    for (let i = 0; i < k; i++) {
      for (let j = 0; j < i; j++) assertAlmostEquals(r.data[i * columns + j], 0, 1e-13);
    }
    const part = leadingQr(a, 2);
    assertLess(
      largestDifference(part.r, { rows: 2, columns, data: r.data.slice(0, 2 * columns) }),
      1e-13,
    );
  }
  // torch.linalg.qr(…).R of a square, a tall and a wide matrix
  const cases = [
    { rows: 2, columns: 2, data: [2, 1, 1, 3], r: [-2.23606798, -2.23606798, 0, 2.23606798] },
    {
      rows: 3,
      columns: 2,
      data: [1, 2, -3, 5, 2, 2],
      r: [-3.74165739, 2.40535118, 0, -5.21673132],
    },
    {
      rows: 2,
      columns: 3,
      data: [1, 2, 4, -3, 5, 1],
      r: [-3.16227766, 4.11096096, -0.31622777, 0, 3.47850543, 4.11096096],
    },
  ];
  for (const { rows, columns, data, r } of cases) {
    const found = leadingQr(flatMatrix(data, { rows, columns }), 2).r;
    r.forEach((x, i) => assertAlmostEquals(found.data[i], x, 1e-7));
  }
});

Deno.test("the leading singular values are exact, few of a large matrix and all of a small one", () => {
  const values = Float64Array.from({ length: 90 }, (_, i) => 5 / (1 + 0.2 * i));
  for (const [rows, columns] of [[90, 150], [150, 90]]) {
    const a = withSingularValues(values, { rows, columns });
    for (const rank of [1, 3, 5, 40, 90]) {
      const svd = leadingSvd(a, rank);
      assertEquals([svd.u.rows, svd.u.columns, svd.v.columns], [rank, rows, columns]);
      svd.s.forEach((s, i) => assertAlmostEquals(s, values[i], 1e-9));
      assertOrthonormalRows(svd.u);
      // Exactly the leading part: what is left is the rest of the spectrum.
      const rest = withSingularValues(
        values.map((x, i) => i < rank ? 0 : x),
        { rows, columns },
      );
      const { data } = rebuilt(svd);
      const left = { ...a, data: a.data.map((x, i) => x - data[i]) };
      assertLess(largestDifference(left, rest), 2e-8);
    }
  }
});

Deno.test("singular values that are equal, zero, or all the same", () => {
  const twice = Float64Array.from({ length: 80 }, (_, i) => i < 3 ? 4 : i < 6 ? 2 : 1 / (i + 1));
  const a = withSingularValues(twice, { rows: 80, columns: 100 });
  leadingSvd(a, 5).s.forEach((s, i) => assertAlmostEquals(s, twice[i], 1e-8));
  const zero = leadingSvd(flatMatrix(new Float64Array(80 * 90), { rows: 80, columns: 90 }), 4);
  assertEquals([...zero.s], [0, 0, 0, 0]);
  assert([...zero.u.data, ...zero.v.data].every(Number.isFinite));
  const identity = leadingSvd(diagonal(new Float64Array(100).fill(3)), 4);
  identity.s.forEach((s) => assertAlmostEquals(s, 3, 1e-9));
  const lowRank = withSingularValues([7, 5], { rows: 70, columns: 90 });
  const { s } = leadingSvd(lowRank, 4);
  [7, 5, 0, 0].forEach((x, i) => assertAlmostEquals(s[i], x, 1e-6));
});

Deno.test("an approximate decomposition approaches the exact one", () => {
  const values = Float64Array.from({ length: 30 }, (_, i) => 3 * 0.7 ** i);
  for (const [rows, columns] of [[30, 44], [44, 30]]) {
    const a = withSingularValues(values, { rows, columns });
    const start = random(30, 4, 11);
    const error = (iterations: number) =>
      largestDifference(
        rebuilt(approximateSvd(a, { start, iterations })),
        rebuilt(leadingSvd(a, 4)),
      );
    assertLess(error(16), 1e-4);
    assertLess(error(16), error(1));
    const { u, v, s } = approximateSvd(a, { start, iterations: 2 });
    assertOrthonormalRows(u);
    assertOrthonormalRows(v);
    assertEquals([...s].sort((x, y) => y - x), [...s]);
  }
});
