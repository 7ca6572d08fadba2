import { attention } from "../../lib/ops/attention.ts";
import { input } from "../../lib/ops/input.ts";
import { reduceMax, sum } from "../../lib/ops/reduce.ts";
import { mul } from "../../lib/ops/elementwise.ts";
import type { Graph, Value } from "../../lib/ops/value.ts";
import { gradients } from "../../lib/program/grad.ts";
import { benchKernels, type KernelCase } from "../measure.ts";

interface Size {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  readonly groups: number;
  readonly depth: number;
}

function attentionOf(g: Graph, size: Size): Value {
  const { batch, queries, keys, heads, groups, depth } = size;
  const keyShape = [batch, keys, groups, depth];
  return attention(input(g, "q", { shape: [batch, queries, heads, depth], dtype: "f32" }), {
    k: input(g, "k", { shape: keyShape, dtype: "f32" }),
    v: input(g, "v", { shape: keyShape, dtype: "f32" }),
    querySegments: input(g, "querySegments", { shape: [batch, queries], dtype: "i32" }),
    keySegments: input(g, "keySegments", { shape: [batch, keys], dtype: "i32" }),
    offset: input(g, "offset", { shape: [1], dtype: "i32" }),
    causal: true,
  });
}

/** The part of the gradient with respect to input number `of`. */
function gradientOf(g: Graph, size: Size, of: number): Value {
  const y = attentionOf(g, size);
  const loss = sum(mul(y, input(g, "g", { shape: y.shape, dtype: "f32" })));
  return gradients(reduceMax(loss), [y.inputs[of]])[0];
}

const train: Size = { batch: 4, queries: 128, keys: 128, heads: 9, groups: 3, depth: 64 };
const decode: Size = { ...train, batch: 1, queries: 1, keys: 1024 };
const prompt: Size = { ...train, batch: 1, queries: 512, keys: 1024 };
const offset = (value: number) => ({ 5: () => value });

benchKernels("attention", [
  { name: "training, 4 × 128", build: (g) => attentionOf(g, train), integers: offset(0) },
  {
    name: "prompt of 512, cache of 1024",
    build: (g) => attentionOf(g, prompt),
    integers: offset(0),
  },
  { name: "decoding, 1000 keys", build: (g) => attentionOf(g, decode), integers: offset(999) },
  ...["q", "k", "v"].map((name, i): KernelCase => ({
    name: `gradient of ${name}, 4 × 128`,
    build: (g) => gradientOf(g, train, i),
    integers: offset(0),
  })),
]);
