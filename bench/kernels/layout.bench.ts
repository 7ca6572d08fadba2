import { add } from "../../lib/ops/elementwise.ts";
import { concat } from "../../lib/ops/concat.ts";
import { input } from "../../lib/ops/input.ts";
import { pad, slice } from "../../lib/ops/slice.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import type { Graph } from "../../lib/ops/value.ts";
import { benchKernels } from "../measure.ts";

const value = (g: Graph, name: string, shape: readonly number[]) =>
  input(g, name, { shape, dtype: "f32" });
const half = 4 * 2048 * 2048 * 2;

benchKernels("layout", [
  {
    name: "transpose, 2048 × 2048",
    build: (g) => transpose(value(g, "x", [2048, 2048])),
    limit: "memory",
  },
  {
    name: "transpose of the inner axes, 16 × 512 × 576",
    build: (g) => transpose(value(g, "x", [16, 512, 576])),
    limit: "memory",
  },
  {
    name: "heads before positions, 4 × 128 × 9 × 64",
    build: (g) => transpose(value(g, "x", [4, 128, 9, 64]), [0, 2, 1, 3]),
    limit: "memory",
  },
  {
    name: "transpose within a sum, 2048 × 2048",
    build: (g) => add(value(g, "y", [2048, 2048]), transpose(value(g, "x", [2048, 2048]))),
    limit: "memory",
  },
  {
    name: "half of the columns, 2048 × 4096",
    build: (g) => slice(value(g, "x", [2048, 4096]), { starts: [0, 1024], sizes: [2048, 2048] }),
    bytes: half,
    limit: "memory",
  },
  {
    name: "zeros around, 2048 × 2040 to 2048 × 2048",
    build: (g) => pad(value(g, "x", [2048, 2040]), { low: [0, 4], high: [0, 4] }),
    limit: "memory",
  },
  {
    name: "two halves of columns joined, 2048 × 4096",
    build: (g) => concat([value(g, "x", [2048, 2048]), value(g, "y", [2048, 2048])], { axis: 1 }),
    limit: "memory",
  },
]);
