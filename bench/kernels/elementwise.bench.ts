import { add, div, mul, sqrt, sub } from "../../lib/ops/elementwise.ts";
import { cast } from "../../lib/ops/cast.ts";
import { dropoutMask } from "../../lib/ops/dropout-mask.ts";
import { gelu, silu } from "../../lib/ops/functions.ts";
import { input } from "../../lib/ops/input.ts";
import type { Graph, ValueType } from "../../lib/ops/value.ts";
import { benchKernels } from "../measure.ts";

const value = (g: Graph, name: string, shape: readonly number[], dtype: ValueType = "f32") =>
  input(g, name, { shape, dtype });
const LARGE = [2048, 4096];

benchKernels("elementwise", [
  {
    name: "sum of two, 8M elements",
    build: (g) => add(value(g, "x", LARGE), value(g, "y", LARGE)),
    limit: "memory",
  },
  {
    name: "silu(x) · y, 512 × 1536",
    build: (g) => mul(silu(value(g, "x", [512, 1536])), value(g, "y", [512, 1536])),
    limit: "memory",
  },
  { name: "gelu, 512 × 3072", build: (g) => gelu(value(g, "x", [512, 3072])), limit: "memory" },
  {
    name: "row and column broadcasts, 2048 × 4096",
    build: (g) => add(mul(value(g, "x", LARGE), value(g, "r", [4096])), value(g, "c", [2048, 1])),
    limit: "memory",
  },
  {
    name: "rows of odd length with a broadcast, 2047 × 4095",
    build: (g) => mul(value(g, "x", [2047, 4095]), value(g, "r", [4095])),
    limit: "memory",
  },
  {
    name: "bf16 to f32, 8M elements",
    build: (g) => cast(value(g, "x", LARGE, "bf16"), "f32"),
    limit: "memory",
  },
  {
    name: "dropout, 512 × 576",
    build: (g) => {
      const mask = dropoutMask(g, [512, 576], {
        seed: value(g, "s", [1], "i32"),
        rate: 0.1,
        stream: 1,
      });
      return mul(value(g, "x", [512, 576]), mask);
    },
    limit: "memory",
  },
  {
    name: "AdamW's step of 4.9M parameters",
    build: (g) => {
      const [p, m, v] = ["p", "m", "v"].map((n) => value(g, n, [4884480]));
      return sub(mul(p, 0.999), mul(div(m, add(sqrt(v), 1e-8)), 1e-3));
    },
    limit: "memory",
  },
]);
