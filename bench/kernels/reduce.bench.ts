import { mul } from "../../lib/ops/elementwise.ts";
import { input } from "../../lib/ops/input.ts";
import { reduceMax, sum } from "../../lib/ops/reduce.ts";
import type { Graph } from "../../lib/ops/value.ts";
import { benchKernels } from "../measure.ts";

const value = (g: Graph, name: string, shape: readonly number[]) =>
  input(g, name, { shape, dtype: "f32" });
const last = { axes: [-1], keepDims: true } as const;

benchKernels("reduce", [
  { name: "sum of 8M elements", build: (g) => sum(value(g, "x", [1 << 23])), limit: "memory" },
  {
    name: "rows of 8 (heads), 65536",
    build: (g) => sum(value(g, "x", [65536, 8]), last),
    limit: "memory",
  },
  {
    name: "rows of 64, 512 × 9",
    build: (g) => sum(value(g, "x", [512, 9, 64]), last),
    limit: "memory",
  },
  {
    name: "squares of rows of 576, 512",
    build: (g) => {
      const x = value(g, "x", [512, 576]);
      return sum(mul(x, x), last);
    },
    limit: "memory",
  },
  {
    name: "maxima of rows of 49152, 128",
    build: (g) => reduceMax(value(g, "x", [128, 49152]), last),
    limit: "memory",
  },
  {
    name: "columns of 512 (bias gradient), 1536",
    build: (g) => sum(value(g, "x", [512, 1536]), { axes: [0], keepDims: true }),
    limit: "memory",
  },
  {
    name: "columns of products, 2048 × 4096",
    build: (g) => {
      const [x, y] = ["x", "y"].map((n) => value(g, n, [2048, 4096]));
      return sum(mul(x, y), { axes: [0], keepDims: true });
    },
    limit: "memory",
  },
  {
    name: "the middle axis, 16 × 256 × 1024",
    build: (g) => sum(value(g, "x", [16, 256, 1024]), { axes: [1], keepDims: true }),
    limit: "memory",
  },
]);
