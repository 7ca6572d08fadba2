import { assertEquals } from "@std/assert";
import { traceModel } from "../../../lib/adapters/trace-model.ts";
import { lower } from "../../../lib/device/cpu/lower.ts";
import { createModel } from "../../../lib/io/load-model.ts";
import { attention } from "../../../lib/ops/attention.ts";
import { add, exp, mul } from "../../../lib/ops/elementwise.ts";
import { silu } from "../../../lib/ops/functions.ts";
import { dropoutMask } from "../../../lib/ops/dropout-mask.ts";
import { input } from "../../../lib/ops/input.ts";
import { matmul } from "../../../lib/ops/matmul.ts";
import { sum } from "../../../lib/ops/reduce.ts";
import { reshape } from "../../../lib/ops/reshape.ts";
import type { Graph, Value } from "../../../lib/ops/value.ts";
import { checkpoint } from "../../../lib/program/checkpoint.ts";
import { gradients } from "../../../lib/program/grad.ts";
import { type Program, programOf, trace } from "../../../lib/program/program.ts";
import { noDevice } from "../../adapters/bases.ts";

const OPTIONS = { embed: "packed", hostMasks: true } as const;

function operators(program: Program): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const node of lower(program, OPTIONS).graph.nodes) {
    counts[node.operator] = (counts[node.operator] ?? 0) + 1;
  }
  return counts;
}

function f32(graph: Graph, name: string, ...shape: number[]): Value {
  return input(graph, name, { shape, dtype: "f32" });
}

Deno.test("a linear layer with a bias is one product", () => {
  const program = trace((g) => ({
    y: add(matmul(f32(g, "x", 4, 3), f32(g, "w", 5, 3), { transposeB: true }), f32(g, "b", 5)),
  }));
  assertEquals(operators(program), { Gemm: 1 });
});

Deno.test("a scaled low-rank part is added by its product", () => {
  const program = trace((g) => {
    const x = f32(g, "x", 2, 2, 3), t = { transposeB: true };
    const low = matmul(matmul(x, f32(g, "a", 2, 3), t), f32(g, "b", 5, 2), t);
    return { y: add(matmul(x, f32(g, "w", 5, 3), t), mul(low, 1.5)) };
  });
  // The reshapes of x and of y are views.
  assertEquals(operators(program), { Reshape: 2, FusedMatMul: 2, Gemm: 1 });
});

Deno.test("silu is one pass where its gate is not needed again", () => {
  const program = trace((g) => ({ y: silu(f32(g, "x", 4, 3)) }));
  assertEquals(operators(program), { QuickGelu: 1 });
  const trained = trace((g) => {
    const x = f32(g, "x", 4, 3);
    return { dx: gradients(sum(silu(x)), [x])[0] };
  });
  assertEquals(operators(trained).QuickGelu, undefined);
});

Deno.test("layers share one mask, and forward and backward pass the probabilities", () => {
  const program = trace((g) => {
    const rest = {
      querySegments: input(g, "query", { shape: [2, 5], dtype: "i32" }),
      keySegments: input(g, "key", { shape: [2, 5], dtype: "i32" }),
      offset: input(g, "offset", { shape: [1], dtype: "i32" }),
      causal: true,
    };
    const x = f32(g, "x", 2, 5, 4, 3);
    let h = x;
    for (let i = 0; i < 2; i++) {
      const k = reshape(h, [2, 5, 4, 3]);
      h = attention(h, { k, v: exp(k), ...rest });
    }
    return { dx: gradients(sum(h), [x])[0] };
  });
  const found = operators(program);
  assertEquals([found.Where, found.Softmax], [1, 2]);
});

Deno.test("what is computed a second time stays apart", () => {
  let kept: Value | undefined;
  const plain = trace((g) => {
    const x = kept = f32(g, "x", 1, 5, 4, 3);
    const one = input(g, "one", { shape: [1, 5], dtype: "i32" });
    const offset = input(g, "offset", { shape: [1], dtype: "i32" });
    const h = attention(x, {
      k: exp(x),
      v: exp(x),
      querySegments: one,
      keySegments: one,
      offset,
      causal: true,
    });
    const loss = sum(mul(h, h));
    return { loss, dx: gradients(loss, [x])[0] };
  });
  const program = checkpoint(plain, { of: "loss", keep: [kept!] });
  assertEquals([operators(plain).Softmax, operators(program).Softmax], [1, 2]);
});

Deno.test("the host makes the masks of a seed that it knows", () => {
  const program = trace((g) => {
    const seed = input(g, "seed", { shape: [1], dtype: "i32" });
    const x = f32(g, "x", 3, 5);
    const masked = (x: Value, stream: number) =>
      mul(x, dropoutMask(g, [3, 5], { seed, rate: 0.25, stream }));
    return { y: add(masked(x, 1), masked(exp(x), 2)) };
  });
  const { graph, masks } = lower(program, OPTIONS);
  assertEquals(masks.map((m) => [m.seed, m.stream, m.rate, m.size]), [
    ["seed", 1, 0.25, 15],
    ["seed", 2, 0.25, 15],
  ]);
  assertEquals(graph.inputs.map((i) => i.type).sort(), ["f32", "u8", "u8"]);
});

Deno.test("inputs that nothing needs are left out", () => {
  const program = trace((g) => {
    const x = f32(g, "x", 3), y = f32(g, "unused", 3);
    return { z: add(mul(y, 0), x) };
  });
  assertEquals(lower(program, OPTIONS).graph.inputs.map((i) => i.name), ["x"]);
});

Deno.test("an output may be an input, or have an input's name", () => {
  const program = trace((g) => {
    const x = f32(g, "x", 3);
    return { x: exp(x), same: x, again: exp(x) };
  });
  const { graph, outputs } = lower(program, OPTIONS);
  assertEquals(outputs.get("x")!.onnx, "x'");
  assertEquals(graph.outputs.map((o) => o.name), ["x'", "same", "again"]);
});

Deno.test("a decoded token transposes no cache, and its gates are one pass", async () => {
  const config = {
    model_type: "llama",
    vocab_size: 41,
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
  };
  const model = await createModel(config, { device: noDevice });
  const { program } = traceModel(model, { batch: 1, length: 1, cache: { capacity: 64 } });
  // As the device runs it: of a cache the new rows come out, which it writes itself.
  const outputs = [...program.outputs].map(([name, value]): [string, Value] => [
    name,
    value.op === "cacheUpdate" ? value.inputs[1] : value,
  ]);
  const found = operators(programOf(Object.fromEntries(outputs)));
  assertEquals([found.Transpose, found.QuickGelu], [undefined, 2]);
});
