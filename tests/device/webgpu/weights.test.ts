import { assert, assertEquals, assertRejects } from "@std/assert";
import { createWebGpuDevice } from "../../../lib/device/webgpu/mod.ts";
import { DeviceError } from "../../../lib/errors.ts";
import { add, mul } from "../../../lib/ops/elementwise.ts";
import { input } from "../../../lib/ops/input.ts";
import { sum } from "../../../lib/ops/reduce.ts";
import { type Program, trace } from "../../../lib/program/program.ts";
import { lazyTensor, type Tensor, tensor } from "../../../lib/tensor/tensor.ts";

const SIZE = 1024;

function scaled(factor: number): Program {
  return trace((g) => {
    const w = input(g, "w", { shape: [SIZE], dtype: "f32", role: "weight" });
    const x = input(g, "x", { shape: [SIZE], dtype: "f32" });
    return { y: sum(mul(add(w, x), factor)) };
  });
}

function counted(value: number): { tensor: Tensor; reads: () => number } {
  let reads = 0;
  const bytes = () => new Uint8Array(new Float32Array(SIZE).fill(value).buffer);
  return {
    tensor: lazyTensor({ dtype: "f32", shape: [SIZE] }, () => {
      reads++;
      return Promise.resolve(bytes());
    }),
    reads: () => reads,
  };
}

const x = tensor(new Float32Array(SIZE).fill(1));
const value = async (y: Tensor) => Number((await y.data())[0]);

Deno.test("a weight is read once for all programs, and again after its release", async () => {
  using device = await createWebGpuDevice();
  const w = counted(2);
  const [once, twice] = await Promise.all([device.compile(scaled(1)), device.compile(scaled(2))]);
  const results = await Promise.all([
    once.run({ w: w.tensor, x }),
    twice.run({ w: w.tensor, x }),
    once.run({ w: w.tensor, x }),
  ]);
  assertEquals(await Promise.all(results.map((r) => value(r.y))), [3072, 6144, 3072]);
  assertEquals(w.reads(), 1);
  const full = device.memory();
  device.release([w.tensor]);
  assertEquals(device.memory().bytes, full.bytes - SIZE * 4);
  assertEquals(await value((await once.run({ w: w.tensor, x })).y), 3072);
  assertEquals(w.reads(), 2);
  assertEquals(device.memory().bytes, full.bytes);
});

Deno.test("a memory budget makes room by dropping what was not used for longest", async () => {
  using device = await createWebGpuDevice({ memoryBudgetBytes: 2 * SIZE * 4 });
  const executable = await device.compile(scaled(1));
  const [a, b, c] = [counted(1), counted(2), counted(3)];
  const run = async (w: Tensor) => await value((await executable.run({ w, x })).y);
  assertEquals(await run(a.tensor), 2 * SIZE);
  assertEquals(await run(b.tensor), 3 * SIZE);
  assertEquals(await run(a.tensor), 2 * SIZE);
  assertEquals(await run(c.tensor), 4 * SIZE); // in the place of b
  assertEquals(await run(a.tensor), 2 * SIZE);
  assertEquals(await run(b.tensor), 3 * SIZE);
  assertEquals([a.reads(), b.reads(), c.reads()], [1, 2, 1]);
});

Deno.test("weights that exceed the budget together are an error that names one", async () => {
  using device = await createWebGpuDevice({ memoryBudgetBytes: SIZE * 4 });
  const program = trace((g) => {
    const [v, w] = ["v", "w"].map((name) =>
      input(g, name, { shape: [SIZE], dtype: "f32", role: "weight" })
    );
    return { y: sum(mul(v, w)) };
  });
  const executable = await device.compile(program);
  const error = await assertRejects(
    () => executable.run({ v: counted(1).tensor, w: counted(2).tensor }),
    DeviceError,
  );
  assert(error.message.includes("memoryBudgetBytes"), error.message);
});

Deno.test("new weights for the same program bind anew, known ones do not", async () => {
  using device = await createWebGpuDevice();
  const executable = await device.compile(scaled(1));
  const weights = [counted(1), counted(2), counted(3)];
  for (const w of weights) await executable.run({ w: w.tensor, x });
  const before = device.memory();
  for (const [i, w] of weights.entries()) {
    assertEquals(await value((await executable.run({ w: w.tensor, x })).y), (i + 2) * SIZE);
  }
  assertEquals(device.memory(), before);
});

Deno.test("a data input is written only when another tensor is given", async () => {
  using device = await createWebGpuDevice();
  const executable = await device.compile(scaled(1));
  const w = counted(1).tensor, data = counted(5), other = counted(6);
  for (const d of [data, data, other, data]) await executable.run({ w, x: d.tensor });
  assertEquals([data.reads(), other.reads()], [2, 1]);
});
