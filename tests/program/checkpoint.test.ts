import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { mul, tanh } from "../../lib/ops/elementwise.ts";
import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { sum } from "../../lib/ops/reduce.ts";
import type { Value } from "../../lib/ops/value.ts";
import { checkpoint } from "../../lib/program/checkpoint.ts";
import { cost } from "../../lib/program/cost.ts";
import { gradients } from "../../lib/program/grad.ts";
import { trace } from "../../lib/program/program.ts";

/** A chain of layers whose activations are large beside its weights. */
function chain(layers: number) {
  const keep: Value[] = [];
  const program = trace((graph) => {
    let h = input(graph, "x", { shape: [512, 8], dtype: "f32" });
    const weights: Value[] = [];
    for (let i = 0; i < layers; i++) {
      keep.push(h);
      const up = input(graph, `up${i}`, { shape: [8, 8], dtype: "f32" });
      weights.push(up);
      h = tanh(mul(tanh(matmul(tanh(matmul(h, up)), up)), h));
    }
    const loss = sum(mul(h, h));
    const grads = gradients(loss, weights);
    return { loss, ...Object.fromEntries(grads.map((g, i) => [`g${i}`, g])) };
  });
  return { program, keep };
}

Deno.test("rematerialisation trades FLOPs for peak memory", () => {
  const { program, keep } = chain(12);
  const again = checkpoint(program, { of: "loss", keep });
  const [before, after] = [cost(program), cost(again)];
  assertLess(after.peakMemory, before.peakMemory * 0.6);
  assertLess(after.flops, before.flops * 1.5);
  assert(after.flops > before.flops);
});

Deno.test("the forward pass and the outputs stay the same", () => {
  const { program, keep } = chain(2);
  const again = checkpoint(program, { of: "loss", keep });
  assertEquals([...again.outputs.keys()], [...program.outputs.keys()]);
  assertEquals(
    again.nodes.filter((n) => n.op === "matmul" && !n.attributes.recomputed).length >= 4,
    true,
  );
});

Deno.test("the end of the forward pass must exist", () => {
  const { program, keep } = chain(1);
  assertThrows(() => checkpoint(program, { of: "cost", keep }), TypeError, "no output");
});
