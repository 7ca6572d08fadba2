import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { matmulQuantized } from "../../lib/ops/matmul-quantized.ts";
import type { ValueType } from "../../lib/ops/value.ts";
import { benchKernels, type KernelCase } from "../measure.ts";

interface Product {
  readonly name: string;
  readonly a: readonly number[];
  readonly b: readonly number[];
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly dtype?: ValueType;
}

/** The products of a training step and of decoding, at the sizes of SmolLM2-135M. */
const PRODUCTS: readonly Product[] = [
  { name: "512×1024×1024", a: [512, 1024], b: [1024, 1024] },
  { name: "query projection", a: [512, 576], b: [576, 576], transposeB: true },
  { name: "up projection", a: [512, 576], b: [1536, 576], transposeB: true },
  { name: "up projection, bf16", a: [512, 576], b: [1536, 576], transposeB: true, dtype: "bf16" },
  { name: "gradient of the up projection", a: [512, 1536], b: [1536, 576] },
  { name: "head", a: [128, 576], b: [49152, 576], transposeB: true },
  { name: "LoRA down", a: [512, 576], b: [8, 576], transposeB: true },
  { name: "LoRA up", a: [512, 8], b: [576, 8], transposeB: true },
  { name: "gradient of LoRA's A", a: [512, 8], b: [512, 576], transposeA: true },
  { name: "gradient of LoRA's B", a: [512, 576], b: [512, 8], transposeA: true },
  { name: "decoding, up projection", a: [1, 576], b: [1536, 576], transposeB: true },
  { name: "decoding, head", a: [1, 576], b: [49152, 576], transposeB: true },
  { name: "decoding, head, bf16", a: [1, 576], b: [49152, 576], transposeB: true, dtype: "bf16" },
];

benchKernels(
  "matmul",
  PRODUCTS.map(({ name, a, b, dtype = "f32", ...options }): KernelCase => ({
    name,
    build: (g) =>
      matmul(
        input(g, "a", { shape: a, dtype: "f32" }),
        input(g, "b", { shape: b, dtype, role: "weight" }),
        options,
      ),
  })),
);

const weight = (rows: number, columns: number, bits: 4 | 8) => (rowsOfX: number, back = false) => ({
  name: `${rowsOfX} rows, ${bits} bits, [${rows}, ${columns}]${back ? ", gradient" : ""}`,
  build: (g) => {
    const block = 32;
    const scales = [rows, columns / block];
    return matmulQuantized(
      input(g, "x", { shape: [rowsOfX, back ? rows : columns], dtype: "f32" }),
      {
        packed: input(g, "packed", { shape: [rows, columns * bits / 8], dtype: "u8" }),
        scales: input(g, "scales", { shape: scales, dtype: "f32" }),
        offsets: bits === 4 ? input(g, "offsets", { shape: scales, dtype: "f32" }) : undefined,
        bits,
        block,
      },
      { transposeB: !back },
    );
  },
} satisfies KernelCase);

benchKernels("matmulQuantized", [
  weight(1536, 576, 4)(512),
  weight(1536, 576, 4)(512, true),
  weight(1536, 576, 8)(512),
  weight(1536, 576, 4)(1),
  weight(49152, 576, 4)(1),
  weight(49152, 576, 8)(1),
]);
