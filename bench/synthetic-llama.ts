/**
 * Programs of a llama with random weights, for benchmarks that need a model's shape but no model.
 *
 * @module
 */
import { add, div, mul, sqrt, sub } from "../lib/ops/elementwise.ts";
import { attention } from "../lib/ops/attention.ts";
import { cacheUpdate } from "../lib/ops/cache-update.ts";
import { concat } from "../lib/ops/concat.ts";
import { crossEntropy } from "../lib/ops/cross-entropy.ts";
import { silu } from "../lib/ops/functions.ts";
import { gather } from "../lib/ops/gather.ts";
import { gatherQuantized } from "../lib/ops/gather-quantized.ts";
import { input } from "../lib/ops/input.ts";
import { matmul } from "../lib/ops/matmul.ts";
import { matmulQuantized } from "../lib/ops/matmul-quantized.ts";
import type { QuantizedValue } from "../lib/ops/quantized-value.ts";
import { mean } from "../lib/ops/reduce.ts";
import { reshape } from "../lib/ops/reshape.ts";
import { rmsNorm } from "../lib/ops/rms-norm.ts";
import { rope } from "../lib/ops/rope.ts";
import { sliceAxis } from "../lib/ops/slice.ts";
import type { Graph, Value } from "../lib/ops/value.ts";
import { gradients } from "../lib/program/grad.ts";
import { type Program, trace } from "../lib/program/program.ts";
import { sizeOf, type TypedArray } from "../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../lib/tensor/tensor.ts";

/** The sizes of a llama. */
export interface LlamaShape {
  readonly layers: number;
  readonly hidden: number;
  readonly inner: number;
  readonly heads: number;
  readonly groups: number;
  readonly vocabulary: number;
}

/** SmolLM2-135M. */
export const SMOLLM2_135M: LlamaShape = {
  layers: 30,
  hidden: 576,
  inner: 1536,
  heads: 9,
  groups: 3,
  vocabulary: 49152,
};

/** How a benchmark program is built. */
export interface LlamaOptions {
  readonly batch: number;
  readonly length: number;
  /** 4 or 8 bit weights in blocks of 32, with offsets; f32 without. */
  readonly bits?: 4 | 8;
  /** LoRA rank on all linear layers. */
  readonly rank?: number;
  /** Room in the cache; no cache without. */
  readonly capacity?: number;
  /** Type of plain weights. */
  readonly weightType?: "f32" | "f16";
}

/** A program and what to run it with. */
export interface LlamaProgram {
  readonly program: Program;
  readonly inputs: Readonly<Record<string, Tensor>>;
  /** Number of trained parameters. */
  readonly parameters: number;
  /** Cache states. */
  readonly states: Readonly<Record<string, Value>>;
}

const BLOCK = 32;

/** Small numbers that repeat, made fast. */
function random(shape: readonly number[], scale: number): Tensor {
  const data = new Float32Array(sizeOf(shape));
  let x = data.length | 1;
  for (let i = 0; i < data.length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) | 0;
    data[i] = x / 2147483648 * scale;
  }
  return tensor(data, { shape });
}

function bytes(shape: readonly number[]): Tensor {
  const data = new Uint8Array(sizeOf(shape));
  let x = 7;
  for (let i = 0; i < data.length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) | 0;
    data[i] = x >>> 16;
  }
  return tensor(data, { shape });
}

interface Scope {
  readonly graph: Graph;
  readonly inputs: Record<string, Tensor>;
  readonly weights: Map<string, Tensor>;
  readonly options: LlamaOptions;
  readonly trained?: (name: string, shape: readonly number[]) => Value;
}

function plain(scope: Scope, name: string, shape: readonly number[]): Value {
  let t = scope.weights.get(name);
  if (!t) scope.weights.set(name, t = random(shape, 1.7 / Math.sqrt(shape[shape.length - 1])));
  scope.inputs[name] = t;
  return input(scope.graph, name, { shape, dtype: "f32", role: "weight" });
}

function quantized(scope: Scope, name: string, shape: readonly [number, number]): QuantizedValue {
  const bits = scope.options.bits!;
  const part = (suffix: string, s: readonly number[], dtype: "u8" | "f32") => {
    const key = `${name}.${suffix}`;
    let t = scope.weights.get(key);
    if (!t) {
      t = dtype === "u8" ? bytes(s) : random(s, 0.3 / Math.sqrt(shape[1]) / 2 ** (bits - 4));
      scope.weights.set(key, t);
    }
    scope.inputs[key] = t;
    return input(scope.graph, key, { shape: s, dtype, role: "weight" });
  };
  const blocks = [shape[0], shape[1] / BLOCK];
  return {
    packed: part("packed", [shape[0], shape[1] * bits / 8], "u8"),
    scales: part("scales", blocks, "f32"),
    offsets: bits === 4 ? part("offsets", blocks, "f32") : undefined,
    bits,
    block: BLOCK,
  };
}

function linear(scope: Scope, name: string, x: Value, out: number): Value {
  const inner = x.shape[x.shape.length - 1];
  const base = scope.options.bits
    ? matmulQuantized(x, quantized(scope, name, [out, inner]), { transposeB: true })
    : matmul(x, plain(scope, name, [out, inner]), { transposeB: true });
  const { rank } = scope.options;
  if (!rank || !scope.trained || name === "embed") return base;
  const a = scope.trained(`${name}.a`, [rank, inner]);
  const b = scope.trained(`${name}.b`, [out, rank]);
  const low = matmul(matmul(x, a, { transposeB: true }), b, { transposeB: true });
  return add(base, mul(low, 2));
}

function logitsOf(
  scope: Scope,
  llama: LlamaShape,
  caches: Record<string, Value>,
  outputs: Record<string, Value>,
): Value {
  const { graph, options } = scope;
  const { batch, length, capacity } = options;
  const { hidden, heads, groups, vocabulary } = llama;
  const size = hidden / heads;
  const data = (
    name: string,
    shape: readonly number[],
    dtype: "i32" | "f32",
    value: TypedArray,
  ) => {
    scope.inputs[name] = tensor(value, { shape });
    return input(graph, name, { shape, dtype });
  };
  const ids = data(
    "ids",
    [batch, length],
    "i32",
    Int32Array.from({ length: batch * length }, (_, i) => i * 7919 % vocabulary),
  );
  const keys = capacity ?? length;
  const querySegments = data(
    "query",
    [batch, length],
    "i32",
    new Int32Array(batch * length).fill(1),
  );
  const keySegments = data("key", [batch, keys], "i32", new Int32Array(batch * keys).fill(1));
  const offset = data(
    "offset",
    [1],
    "i32",
    Int32Array.of(capacity ? Math.min(16, capacity - length) : 0),
  );
  const half = size / 2;
  const angles = Float32Array.from(
    { length: length * half },
    (_, i) => Math.floor(i / half) * 1e4 ** (-(i % half) / half),
  );
  const cos = data("cos", [1, length, half], "f32", angles.map(Math.cos));
  const sin = data("sin", [1, length, half], "f32", angles.map(Math.sin));
  const norm = (name: string, x: Value) =>
    rmsNorm(x, plain(scope, name, [hidden]), { epsilon: 1e-5 });
  let h = options.bits
    ? gatherQuantized(quantized(scope, "embed", [vocabulary, hidden]), ids)
    : gather(plain(scope, "embed", [vocabulary, hidden]), ids);
  for (let i = 0; i < llama.layers; i++) {
    const x = norm(`${i}.norm1`, h);
    const project = (name: string, n: number) =>
      reshape(linear(scope, `${i}.${name}`, x, n * size), [batch, length, n, size]);
    const q = rope(project("q", heads), { cos, sin });
    let k = rope(project("k", groups), { cos, sin }), v = project("v", groups);
    if (capacity) {
      [k, v] = ([["k", k], ["v", v]] as const).map(([part, rows]) => {
        const name = `cache.${i}.${part}`;
        const cache = input(graph, name, {
          shape: [batch, capacity, groups, size],
          dtype: "f32",
          role: "state",
        });
        caches[name] = cache;
        return outputs[`new.${name}`] = cacheUpdate(cache, rows, { offset });
      });
    }
    const a = attention(q, { k, v, querySegments, keySegments, offset, causal: true });
    h = add(h, linear(scope, `${i}.o`, reshape(a, [batch, length, hidden]), hidden));
    const y = norm(`${i}.norm2`, h);
    const gated = mul(
      silu(linear(scope, `${i}.gate`, y, llama.inner)),
      linear(scope, `${i}.up`, y, llama.inner),
    );
    h = add(h, linear(scope, `${i}.down`, gated, hidden));
  }
  const last = norm("norm", h);
  return linear(scope, "embed", last, vocabulary);
}

/** The logits of a forward pass, with a cache when there is a capacity. */
export function forwardProgram(
  llama: LlamaShape,
  options: LlamaOptions,
  weights: Map<string, Tensor> = new Map(),
): LlamaProgram {
  const inputs: Record<string, Tensor> = {};
  const states: Record<string, Value> = {};
  const updates: Record<string, string> = {};
  const program = trace((graph) => {
    const outputs: Record<string, Value> = {};
    const scope: Scope = { graph, inputs, weights, options };
    const logits = logitsOf(scope, llama, states, outputs);
    for (const name of Object.keys(states)) updates[name] = `new.${name}`;
    return { logits, ...outputs };
  }, { updates });
  return { program, inputs, parameters: 0, states };
}

/** One step of AdamW on LoRA matrices that lie in one flat state, with flat moments. */
export function trainingProgram(
  llama: LlamaShape,
  options: LlamaOptions & { readonly rank: number },
  weights: Map<string, Tensor> = new Map(),
): LlamaProgram {
  const inputs: Record<string, Tensor> = {};
  const states: Record<string, Value> = {};
  // A first trace counts the parameters, so that the flat state has its size in the second.
  const parts: {
    readonly name: string;
    readonly shape: readonly number[];
    readonly start: number;
  }[] = [];
  let total = 0;
  trace((graph) => ({
    logits: logitsOf(
      {
        graph,
        inputs: {},
        weights: new Map(weights),
        options,
        trained(name, shape) {
          parts.push({ name, shape, start: total });
          total += sizeOf(shape);
          return input(graph, name, { shape, dtype: "f32" });
        },
      },
      llama,
      {},
      {},
    ),
  }));
  const program = trace((graph) => {
    const flat = (name: string) =>
      states[name] = input(graph, name, { shape: [total], dtype: "f32", role: "state" });
    const p = flat("parameters"), m = flat("moment1"), v = flat("moment2");
    const leaves = parts.map(({ shape, start }) =>
      reshape(sliceAxis(p, { axis: 0, start, size: sizeOf(shape) }), shape)
    );
    let next = 0;
    const logits = logitsOf(
      { graph, inputs, weights, options, trained: () => leaves[next++] },
      llama,
      {},
      {},
    );
    const rows = options.batch * options.length;
    inputs.labels = tensor(
      Int32Array.from({ length: rows }, (_, i) => (i + 1) * 7919 % llama.vocabulary),
    );
    const labels = input(graph, "labels", { shape: [rows], dtype: "i32" });
    const loss = mean(crossEntropy(reshape(logits, [rows, llama.vocabulary]), labels));
    const grads = gradients(loss, leaves);
    const g = concat(grads.map((x) => reshape(x, [-1])), { axis: 0 });
    inputs.rate = tensor(Float32Array.of(1e-3));
    const rate = input(graph, "rate", { shape: [1], dtype: "f32" });
    const m2 = add(mul(m, 0.9), mul(g, 0.1));
    const v2 = add(mul(v, 0.999), mul(mul(g, g), 0.001));
    const step = div(m2, add(sqrt(v2), 1e-8));
    return { loss, p2: sub(mul(p, 0.9999), mul(step, rate)), m2, v2 };
  }, { updates: { parameters: "p2", moment1: "m2", moment2: "v2" } });
  return { program, inputs, parameters: total, states };
}
