import { assert, assertEquals } from "@std/assert";
import { add, div, exp, log, mul, rsqrt, sqrt, sub, tanh } from "../../lib/ops/elementwise.ts";
import { broadcast } from "../../lib/ops/broadcast.ts";
import { concat } from "../../lib/ops/concat.ts";
import { constant } from "../../lib/ops/constant.ts";
import { silu } from "../../lib/ops/functions.ts";
import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { mean, sum } from "../../lib/ops/reduce.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { pad, sliceAxis } from "../../lib/ops/slice.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import type { Graph, Value } from "../../lib/ops/value.ts";
import { fuse, type FusedProgram } from "../../lib/program/fuse.ts";
import { lower } from "../../lib/program/lower.ts";
import { trace } from "../../lib/program/program.ts";

const f32 = (g: Graph, name: string, shape: readonly number[]) =>
  input(g, name, { shape, dtype: "f32" });

function fused(fn: (g: Graph) => Record<string, Value>): FusedProgram {
  return fuse(lower(trace(fn)));
}

/** Kinds of the groups, with the number of outputs where there are several. */
function kinds({ groups }: FusedProgram): string[] {
  return groups.map((g) => g.outputs.length > 1 ? `${g.kind} ×${g.outputs.length}` : g.kind);
}

Deno.test("a chain with broadcasts, reshapes and constants is one kernel", () => {
  const p = fused((g) => {
    const x = f32(g, "x", [8, 16]), bias = f32(g, "bias", [16]), scale = f32(g, "scale", [8, 1]);
    const y = silu(add(mul(x, scale), bias));
    return { y: tanh(mul(reshape(y, [128]), constant(g, 3, { shape: [128] }))) };
  });
  assertEquals(kinds(p), ["elementwise"]);
  assertEquals(p.groups[0].reads.length, 3);
});

Deno.test("a reduction takes in what comes before and after it", () => {
  const p = fused((g) => {
    const x = f32(g, "x", [64, 48]), weight = f32(g, "weight", [48]);
    const scale = rsqrt(add(mean(mul(x, x), { axes: [-1], keepDims: true }), 1e-5));
    return { y: mul(mul(x, scale), weight) };
  });
  assertEquals(kinds(p), ["reduce", "elementwise"]);
  assertEquals(p.groups[0].outputs[0].op, "unary");
  assertEquals(p.groups[0].reads.length, 1);
});

Deno.test("an optimizer's update is one kernel with three outputs", () => {
  const p = fused((g) => {
    const [w, m, v, d] = ["w", "m", "v", "d"].map((n) => f32(g, n, [1000]));
    const m1 = add(mul(m, 0.9), mul(d, 0.1)), v1 = add(mul(v, 0.99), mul(mul(d, d), 0.01));
    return { m1, v1, w1: sub(w, mul(div(m1, add(sqrt(v1), 1e-8)), 0.1)) };
  });
  assertEquals(kinds(p), ["elementwise ×3"]);
  assertEquals(p.groups[0].reads.length, 4);
});

Deno.test("bias, activation and residual run in the matrix product's kernel", () => {
  const p = fused((g) => {
    const x = f32(g, "x", [32, 16]), w = f32(g, "w", [24, 16]);
    const y = matmul(x, w, { transposeB: true });
    const residual = f32(g, "residual", [4, 8, 24]);
    return { y: add(reshape(tanh(add(y, f32(g, "bias", [24]))), [4, 8, 24]), residual) };
  });
  assertEquals(kinds(p), ["kernel"]);
  assertEquals(p.groups[0].node!.op, "matmul");
  assertEquals(p.groups[0].reads.length, 4);
});

Deno.test("of two products that are added, the later one adds the earlier", () => {
  const p = fused((g) => {
    const x = f32(g, "x", [32, 16]);
    const low = matmul(x, f32(g, "a", [16, 4]));
    const y = matmul(x, f32(g, "w", [16, 24]));
    return { y: add(y, mul(matmul(low, f32(g, "b", [4, 24])), 2)) };
  });
  assertEquals(kinds(p), ["kernel", "kernel", "kernel"]);
  assertEquals(p.groups[2].outputs[0], p.program.outputs.get("y"));
});

Deno.test("a product whose result is asked for, or read at other places, stays by itself", () => {
  const asked = fused((g) => {
    const y = matmul(f32(g, "x", [8, 8]), f32(g, "w", [8, 8]));
    return { y, z: tanh(y) };
  });
  assertEquals(kinds(asked), ["kernel", "elementwise"]);
  const moved = fused((g) => {
    const y = matmul(f32(g, "x", [8, 8]), f32(g, "w", [8, 8]));
    return { z: tanh(transpose(y)) };
  });
  assertEquals(kinds(moved), ["kernel", "elementwise"]);
});

Deno.test("what is cheap is computed twice, what is dear is stored", () => {
  const program = (dear: boolean) =>
    fused((g) => {
      const x = f32(g, "x", [512, 512]);
      let y = mul(x, 2);
      if (dear) { for (let i = 0; i < 6; i++) y = log(add(exp(y), 1)); }
      // Three readers of different sizes, so that they cannot be one kernel.
      return {
        a: sum(y, { axes: [0] }),
        b: sum(y, { axes: [1] }),
        c: tanh(sliceAxis(y, { axis: 0, start: 1, size: 511 })),
      };
    });
  assertEquals(kinds(program(false)), ["reduce", "reduce", "elementwise"]);
  assertEquals(kinds(program(true)), ["elementwise", "reduce", "reduce", "elementwise"]);
});

Deno.test("a scalar that a large value is scaled by is computed once", () => {
  const p = fused((g) => {
    const scale = div(1, add(tanh(f32(g, "norm", [1])), 1e-6));
    return { y: mul(f32(g, "x", [1 << 20]), scale) };
  });
  assertEquals(kinds(p), ["elementwise", "elementwise"]);
});

Deno.test("no kernel binds more buffers than the adapter allows", () => {
  const program = lower(trace((g) => {
    let y: Value = f32(g, "x0", [64]);
    for (let i = 1; i < 40; i++) y = add(y, f32(g, `x${i}`, [64]));
    return { y, z: tanh(y) };
  }));
  for (const storageBuffers of [8, 10, 48]) {
    const { groups } = fuse(program, { storageBuffers });
    for (const g of groups) {
      assert(g.reads.length + g.outputs.length <= storageBuffers, `${g.reads.length} are read`);
    }
    assert(groups.length <= (storageBuffers === 8 ? 9 : 7), `${groups.length} kernels`);
  }
});

Deno.test("constants and counters need no kernel of their own unless a kernel reads them", () => {
  const p = fused((g) => {
    const ones = constant(g, 1, { shape: [4, 4] });
    const list = constant(g, [1, 2, 3, 4], { shape: [4, 1] });
    return { y: matmul(ones, list), z: mul(broadcast(list, [4, 9]), f32(g, "x", [4, 9])) };
  });
  assertEquals(kinds(p).sort(), ["elementwise", "kernel"]);
  assertEquals(p.constants.length, 2);
});

Deno.test("aligned slices are views; others are read in place by the kernel that uses them", () => {
  const p = fused((g) => {
    const flat = f32(g, "flat", [640]), x = f32(g, "x", [8, 8]);
    const aligned = reshape(sliceAxis(flat, { axis: 0, start: 64, size: 64 }), [8, 8]);
    const odd = reshape(sliceAxis(flat, { axis: 0, start: 129, size: 64 }), [8, 8]);
    return { y: matmul(x, aligned), z: add(x, odd), w: matmul(x, odd) };
  });
  const aligned = p.groups.find((g) => g.kind === "kernel")!.reads[1];
  assertEquals(p.views.get(aligned)!.offset, 256);
  // Only the product needs the other one as a buffer.
  assertEquals(kinds(p).filter((k) => k === "kernel").length, 2);
});

Deno.test("a view of what is computed inside kernels gets no buffer of its own", () => {
  const p = fused((g) => {
    const y = mul(matmul(f32(g, "a", [8, 9]), f32(g, "b", [9, 9])), f32(g, "c", [8, 9]));
    const wide = (x: Value) => pad(reshape(x, [72]), { low: [0], high: [56] });
    const part = wide(sliceAxis(wide(y), { axis: 0, start: 0, size: 72 }));
    const factor = rsqrt(sum(mul(part, part)));
    return { next: add(f32(g, "old", [128]), mul(part, factor)) };
  });
  for (const v of p.stored) assertEquals(p.views.get(v)!.root, v);
});

Deno.test("groups come after those they read from, however they are merged", () => {
  const p = fused((g) => {
    const x = f32(g, "x", [64, 64]);
    const a = tanh(x), s = sum(a, { axes: [1], keepDims: true });
    const b = mul(a, s), c = add(a, 1);
    return { b, c, d: concat([reshape(b, [4096]), reshape(c, [4096])], { axis: 0 }) };
  });
  const made = new Set<Value>();
  for (const group of p.groups) {
    for (const r of group.reads) {
      const { root } = p.views.get(r)!;
      assert(root.op === "input" || made.has(root), `${root.op} is read before it is made`);
    }
    for (const o of group.outputs) made.add(o);
  }
});
