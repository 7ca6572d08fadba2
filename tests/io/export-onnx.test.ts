import { assertEquals, assertRejects } from "@std/assert";
import ort from "onnxruntime-node";
import { ShapeError } from "../../lib/errors.ts";
import { exportOnnx } from "../../lib/io/export-onnx.ts";
import { add, mul } from "../../lib/ops/elementwise.ts";
import { dropoutMask } from "../../lib/ops/dropout-mask.ts";
import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { matmulQuantized } from "../../lib/ops/matmul-quantized.ts";
import { trace } from "../../lib/program/program.ts";
import { float32ToBits } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";

const PROGRAM = trace((graph) => {
  const x = input(graph, "x", { shape: [2, 32], dtype: "f32" });
  const w = input(graph, "w", { shape: [3, 32], dtype: "f32", role: "weight" });
  const total = input(graph, "total", { shape: [2, 3], dtype: "f32", role: "state" });
  const seed = input(graph, "seed", { shape: [1], dtype: "i32" });
  const packed = input(graph, "packed", { shape: [3, 32], dtype: "u8", role: "weight" });
  const scales = input(graph, "scales", { shape: [3, 1], dtype: "f32", role: "weight" });
  const quantized = { packed, scales, bits: 8, block: 32 } as const;
  const y = add(
    matmul(x, w, { transposeB: true }),
    matmulQuantized(x, quantized, { transposeB: true }),
  );
  const kept = mul(y, dropoutMask(graph, [2, 3], { seed, rate: 0.5, stream: 1 }));
  return { y, total: add(total, kept) };
}, { updates: { total: "total" } });

const HALF = float32ToBits(Float32Array.from({ length: 96 }, (_, i) => i / 64 - 1), "f16");
const WEIGHTS = {
  w: tensor(HALF, { shape: [3, 32], dtype: "f16" }),
  packed: tensor(Uint8Array.from({ length: 96 }, (_, i) => 100 + i), { shape: [3, 32] }),
  scales: tensor([[0.5], [0.25], [-1]]),
};

async function runFile(path: string): Promise<number[]> {
  const session = await ort.InferenceSession.create(path);
  assertEquals([...session.inputNames].sort(), ["seed", "total", "x"]);
  assertEquals(session.outputNames, ["y", "total'"]);
  const result = await session.run({
    x: new ort.Tensor("float32", new Float32Array(64).fill(1), [2, 32]),
    seed: new ort.Tensor("int32", Int32Array.of(7), [1]),
    total: new ort.Tensor("float32", new Float32Array(6), [2, 3]),
  });
  await session.release();
  return [...result.y.data as Float32Array];
}

/** Sums of the rows of both weights. */
const EXPECTED = [0, 1, 2].map((r) => {
  let sum = 0;
  for (let i = 32 * r; i < 32 * r + 32; i++) {
    sum += i / 64 - 1 + (100 + i - 128) * [0.5, 0.25, -1][r];
  }
  return sum;
});

for (const largestFile of [undefined, 0]) {
  Deno.test({
    name: `an exported program runs in ONNX Runtime${
      largestFile === 0 ? ", with its data in a second file" : ""
    }`,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const folder = await Deno.makeTempDir();
      try {
        const path = `${folder}/model.onnx`;
        await exportOnnx(PROGRAM, { weights: WEIGHTS, path, largestFile });
        assertEquals(await runFile(path), [...EXPECTED, ...EXPECTED]);
        const files = [...Deno.readDirSync(folder)].map((f) => f.name).sort();
        assertEquals(files, largestFile === 0 ? ["model.onnx", "model.onnx_data"] : ["model.onnx"]);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}

Deno.test("an export names the weight that is missing or does not fit", async () => {
  const path = "never-written.onnx";
  await assertRejects(
    () => exportOnnx(PROGRAM, { weights: { ...WEIGHTS, w: WEIGHTS.scales }, path }),
    ShapeError,
    '"w" is f32[3,32], but a tensor f32[3,1]',
  );
  const { scales: _scales, ...rest } = WEIGHTS;
  await assertRejects(() => exportOnnx(PROGRAM, { weights: rest, path }), ShapeError, '"scales"');
});
