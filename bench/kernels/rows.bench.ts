import { crossEntropy } from "../../lib/ops/cross-entropy.ts";
import { input } from "../../lib/ops/input.ts";
import { layerNorm } from "../../lib/ops/layer-norm.ts";
import { sum } from "../../lib/ops/reduce.ts";
import { rmsNorm } from "../../lib/ops/rms-norm.ts";
import { softmax } from "../../lib/ops/softmax.ts";
import type { Graph, Value } from "../../lib/ops/value.ts";
import { gradients } from "../../lib/program/grad.ts";
import { benchKernels } from "../measure.ts";

const rows = (g: Graph, shape: readonly number[], name = "x") =>
  input(g, name, { shape, dtype: "f32" });

function losses(g: Graph): Value {
  const labels = input(g, "labels", { shape: [512], dtype: "i32" });
  return crossEntropy(rows(g, [512, 49152]), labels);
}

benchKernels("rows", [
  { name: "softmax, 4608 × 128", build: (g) => softmax(rows(g, [4608, 128])), limit: "memory" },
  {
    name: "rmsNorm, 512 × 576",
    build: (g) => rmsNorm(rows(g, [512, 576]), rows(g, [576], "weight"), { epsilon: 1e-5 }),
    limit: "memory",
  },
  {
    name: "rmsNorm, 1 × 576",
    build: (g) => rmsNorm(rows(g, [1, 576]), rows(g, [576], "weight"), { epsilon: 1e-5 }),
    limit: "memory",
  },
  {
    name: "layerNorm, 512 × 768",
    build: (g) =>
      layerNorm(rows(g, [512, 768]), {
        weight: rows(g, [768], "weight"),
        bias: rows(g, [768], "bias"),
        epsilon: 1e-5,
      }),
    limit: "memory",
  },
  { name: "crossEntropy, 512 × 49152", build: losses, limit: "memory" },
  {
    name: "gradient of crossEntropy, 512 × 49152",
    build: (g) => {
      const y = losses(g);
      return gradients(sum(y), [y.inputs[0]])[0];
    },
    limit: "memory",
  },
]);
