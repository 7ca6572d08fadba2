import { cacheUpdate } from "../../lib/ops/cache-update.ts";
import { dequantize } from "../../lib/ops/dequantize.ts";
import { gather, scatterAdd } from "../../lib/ops/gather.ts";
import { gatherQuantized } from "../../lib/ops/gather-quantized.ts";
import { input } from "../../lib/ops/input.ts";
import { rope } from "../../lib/ops/rope.ts";
import type { Graph, ValueType } from "../../lib/ops/value.ts";
import { benchKernels } from "../measure.ts";

const value = (g: Graph, name: string, shape: readonly number[], dtype: ValueType = "f32") =>
  input(g, name, { shape, dtype });

const quantized = (g: Graph) => ({
  packed: value(g, "packed", [49152, 288], "u8"),
  scales: value(g, "scales", [49152, 18]),
  offsets: value(g, "offsets", [49152, 18]),
  bits: 4 as const,
  block: 32,
});

const spread = (i: number) => (i * 7919) % 49152;

benchKernels("lookup", [
  {
    name: "gather, 512 of 49152 × 576",
    build: (g) => gather(value(g, "table", [49152, 576]), value(g, "ids", [512], "i32")),
    integers: { 1: spread },
    bytes: 512 * 576 * 8,
    limit: "memory",
  },
  {
    name: "gatherQuantized, 512 of 49152 × 576",
    build: (g) => gatherQuantized(quantized(g), value(g, "ids", [512], "i32")),
    integers: { 0: spread },
    bytes: 512 * 576 * (0.5 + 8 / 32 + 4),
    limit: "memory",
  },
  { name: "dequantize, 49152 × 576", build: (g) => dequantize(quantized(g)), limit: "memory" },
  {
    name: "scatterAdd, 512 into 49152 × 576",
    build: (g) =>
      scatterAdd(value(g, "x", [512, 576]), value(g, "ids", [512], "i32"), { rows: 49152 }),
    integers: { 1: spread },
    limit: "memory",
  },
  {
    name: "rope, 4 × 128 × 9 × 64",
    build: (g) =>
      rope(value(g, "x", [4, 128, 9, 64]), {
        cos: value(g, "cos", [1, 128, 32]),
        sin: value(g, "sin", [1, 128, 32]),
      }),
    limit: "memory",
  },
  {
    name: "cacheUpdate, 1 of 2048 × 3 × 64",
    build: (g) =>
      cacheUpdate(value(g, "cache", [1, 2048, 3, 64]), value(g, "rows", [1, 1, 3, 64]), {
        offset: value(g, "offset", [1], "i32"),
      }),
    bytes: 2 * 3 * 64 * 4,
    limit: "memory",
  },
]);
