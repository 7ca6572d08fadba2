import { assertAlmostEquals, assertEquals } from "@std/assert";
import { createCpuDevice } from "../../../lib/device/cpu/mod.ts";
import { mergeProducts } from "../../../lib/device/cpu/merge-products.ts";
import { input } from "../../../lib/ops/input.ts";
import { matmulQuantized } from "../../../lib/ops/matmul-quantized.ts";
import type { Graph } from "../../../lib/ops/value.ts";
import { trace } from "../../../lib/program/program.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";

const ROWS = { q: 5, k: 3, v: 7 }, COLUMNS = 64, BLOCK = 32;

function weight(graph: Graph, name: string, rows: number, offsets: boolean) {
  const part = (suffix: string, columns: number, dtype: "u8" | "f32") =>
    input(graph, `${name}.${suffix}`, { shape: [rows, columns], dtype, role: "weight" });
  return {
    packed: part("packed", COLUMNS / 2, "u8"),
    scales: part("scales", COLUMNS / BLOCK, "f32"),
    offsets: offsets ? part("offsets", COLUMNS / BLOCK, "f32") : undefined,
    bits: 4,
    block: BLOCK,
  } as const;
}

function projections(rows: number, names: readonly (keyof typeof ROWS)[], offsets = true) {
  return trace((graph) => {
    const x = input(graph, "x", { shape: [rows, COLUMNS], dtype: "f32" });
    return Object.fromEntries(
      names.map((n) => [
        n,
        matmulQuantized(x, weight(graph, n, ROWS[n], offsets), { transposeB: true }),
      ]),
    );
  });
}

const products = (program: ReturnType<typeof projections>) =>
  mergeProducts(program).nodes.filter((n) => n.op === "matmulQuantized").length;

Deno.test("products of one row with weights of one format are one product", () => {
  assertEquals(products(projections(1, ["q", "k", "v"])), 1);
  assertEquals(products(projections(2, ["q", "k", "v"])), 3);
  assertEquals(products(projections(1, ["q"])), 1);
});

for (const offsets of [true, false]) {
  Deno.test({
    name: `merged products give each weight's own result${offsets ? ", with offsets" : ""}`,
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      using device = await createCpuDevice();
      const names = ["q", "k", "v"] as const;
      const inputs: Record<string, Tensor> = {};
      const together = projections(1, names, offsets);
      for (const [name, { shape, dtype }] of together.inputs) {
        const size = shape.reduce((n, d) => n * d, 1);
        const values = Array.from({ length: size }, (_, i) => Math.sin(i * 1.7 + name.length));
        inputs[name] = dtype === "u8"
          ? tensor(Uint8Array.from(values, (v) => (v + 1) * 127), { shape })
          : tensor(Float32Array.from(values), { shape });
      }
      const merged = await (await device.compile(together)).run(inputs);
      for (const name of names) {
        const alone = await (await device.compile(projections(1, [name], offsets))).run(inputs);
        const [a, b] = [await merged[name].data(), await alone[name].data()] as Float32Array[];
        assertEquals(merged[name].shape, [1, ROWS[name]]);
        a.forEach((v, i) => assertAlmostEquals(v, b[i], 1e-5));
      }
    },
  });
}
