import { assert, assertEquals } from "@std/assert";
import { add, mul, sub, tanh } from "../../lib/ops/elementwise.ts";
import { concat } from "../../lib/ops/concat.ts";
import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { mean, sum } from "../../lib/ops/reduce.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { sliceAxis } from "../../lib/ops/slice.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import type { Graph, Value } from "../../lib/ops/value.ts";
import { fuse } from "../../lib/program/fuse.ts";
import { gradients } from "../../lib/program/grad.ts";
import { lower } from "../../lib/program/lower.ts";
import { type Plan, plan, type Step } from "../../lib/program/plan.ts";
import { type Program, trace } from "../../lib/program/program.ts";

function planned(
  fn: (g: Graph) => Record<string, Value>,
  updates: Record<string, string> = {},
): Plan & { program: Program } {
  const program = lower(trace(fn, { updates }));
  return { ...plan(fuse(program)), program };
}

const copies = (p: Plan) => p.steps.filter((s) => s.kind === "copy");
const total = (p: Plan) => p.scratch.reduce((a, b) => a + b, 0);

/** Throws where a group reads what it writes in another way than in place, or a buffer is overwritten too early. */
function check({ steps, locate, program }: Plan & { program: Program }): void {
  const groups = steps.filter((s): s is Extract<Step, { kind: "group" }> => s.kind === "group");
  const buffer = (v: Value) => JSON.stringify(locate(v).place);
  for (const { group, inPlace } of groups) {
    const written = group.outputs.map(buffer);
    for (const r of group.reads) {
      if (!written.includes(buffer(r))) continue;
      assert(
        [...inPlace.values()].length > 0 || group.kind === "kernel",
        `${group.kind} reads and writes ${buffer(r)}`,
      );
    }
    assertEquals(new Set(written).size, written.length);
  }
  assert(program.nodes.length > 0);
}

Deno.test("a long chain of kernels needs two buffers", () => {
  const p = planned((g) => {
    let x: Value = input(g, "x", { shape: [32, 32], dtype: "f32" });
    for (let i = 0; i < 10; i++) {
      x = matmul(x, input(g, `w${i}`, { shape: [32, 32], dtype: "f32", role: "weight" }));
    }
    return { y: sum(x) };
  });
  check(p);
  assertEquals(p.scratch.filter((b) => b > 16), [4096, 4096]);
  assertEquals(copies(p).length, 0);
});

Deno.test("an elementwise kernel overwrites what dies with it", () => {
  const p = planned((g) => {
    const x = input(g, "x", { shape: [64, 64], dtype: "f32" });
    const a = matmul(x, x), b = matmul(a, x);
    // Both are read elsewhere, so they cannot be part of a product's kernel.
    const c = add(transpose(a), b);
    return { y: sum(matmul(mul(c, c), tanh(c))) };
  });
  check(p);
  assert(total(p) <= 3 * 16384 + 256, `${total(p)} bytes`);
});

Deno.test("states are updated in place where nothing reads the old value any more", () => {
  const p = planned((g) => {
    const s = input(g, "s", { shape: [128], dtype: "f32", role: "state" });
    const x = input(g, "x", { shape: [128], dtype: "f32" });
    const next = add(mul(s, 0.5), x);
    return { next, y: sum(s) };
  }, { s: "next" });
  check(p);
  assertEquals(copies(p).length, 0);
  assertEquals(p.locate(p.program.outputs.get("next")!).place, { kind: "input", name: "s" });
});

Deno.test("a state that is read at other places than it is written is copied at the end", () => {
  const p = planned((g) => {
    const s = input(g, "s", { shape: [16, 16], dtype: "f32", role: "state" });
    return { next: add(transpose(s), 1) };
  }, { s: "next" });
  check(p);
  assertEquals(copies(p).length, 1);
});

Deno.test("pieces of a flat vector are written in place", () => {
  const p = planned((g) => {
    const flat = input(g, "flat", { shape: [256], dtype: "f32", role: "state" });
    const x = input(g, "x", { shape: [8, 16], dtype: "f32" });
    const w = (i: number) =>
      reshape(sliceAxis(flat, { axis: 0, start: 64 * i, size: 64 }), [16, 4]);
    const y = [0, 1, 2, 3].map((i) => tanh(matmul(x, w(i)))).reduce((a, b) => mul(a, b));
    const gs = gradients(mean(mul(y, y)), [0, 1, 2, 3].map(w));
    return {
      gradient: concat(gs.map((v) => reshape(v, [64])), { axis: 0 }),
      next: sub(flat, mul(concat(gs.map((v) => reshape(v, [64])), { axis: 0 }), 0.1)),
    };
  }, { flat: "next" });
  check(p);
  assertEquals(copies(p).length, 0);
});

Deno.test("pieces that begin between aligned places are copied", () => {
  const p = planned((g) => {
    const x = input(g, "x", { shape: [10], dtype: "f32" });
    const y = input(g, "y", { shape: [64], dtype: "f32" });
    return { z: concat([tanh(x), tanh(y), x], { axis: 0 }) };
  });
  check(p);
  assertEquals(copies(p).length, 3);
});

Deno.test("weight gradients do not keep the activations of a deep model alive", () => {
  const peak = (layers: number) => {
    const p = planned((g) => {
      const ws = Array.from(
        { length: layers },
        (_, i) => input(g, `w${i}`, { shape: [16, 16], dtype: "f32" }),
      );
      let x: Value = input(g, "x", { shape: [256, 16], dtype: "f32" });
      for (const w of ws) x = tanh(matmul(x, w));
      const gs = gradients(mean(mul(x, x)), ws);
      return { g: concat(gs.map((v) => reshape(v, [256])), { axis: 0 }) };
    });
    check(p);
    return total(p);
  };
  // One activation per layer, and not its gradient as well.
  const perLayer = (peak(24) - peak(8)) / 16;
  assert(perLayer < 1.2 * 256 * 16 * 4, `${perLayer} bytes per layer`);
});
