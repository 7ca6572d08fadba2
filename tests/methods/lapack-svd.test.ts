import { assert } from "@std/assert";
import { lapackSvd } from "../../lib/methods/lapack-svd.ts";
import { type FlatMatrix, flatMatrix } from "../../lib/methods/linalg.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import golden from "./lapack-svd.golden.json" with { type: "json" };

function products({ rows, columns, data }: FlatMatrix): number[] {
  return Array.from({ length: rows }, (_, i) => {
    const row = data.subarray(i * columns, (i + 1) * columns);
    return row.reduce((sum, x, j) => sum + x * Math.sin(j + 1), 0);
  });
}

for (const { rows, columns, shrink, ...expected } of golden) {
  Deno.test(`singular vectors of ${rows}×${columns}, shrinking by ${shrink}, have LAPACK's signs`, () => {
    const numbers = createTorchRandom(rows).normal(rows * columns);
    const matrix = flatMatrix(numbers.map((x, i) => x * shrink ** (i % columns)), {
      rows,
      columns,
    });
    for (const rank of [Math.min(rows, columns), Math.ceil(Math.min(rows, columns) / 2)]) {
      const { u, v } = lapackSvd(matrix, rank);
      for (const [side, got] of [["u", products(u)], ["v", products(v)]] as const) {
        got.forEach((x, i) => {
          assert(
            Math.abs(x - expected[side][i]) < 1e-3,
            `${side} ${i}: ${x}, ${expected[side][i]}`,
          );
        });
      }
    }
  });
}
