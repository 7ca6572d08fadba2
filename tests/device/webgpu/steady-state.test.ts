import { assert, assertEquals } from "@std/assert";
import type { Executable } from "../../../lib/device/device.ts";
import { createWebGpuDevice } from "../../../lib/device/webgpu/mod.ts";
import { add, div, exp, mul, sqrt, sub } from "../../../lib/ops/elementwise.ts";
import { input } from "../../../lib/ops/input.ts";
import { mean, sum } from "../../../lib/ops/reduce.ts";
import { type Program, trace } from "../../../lib/program/program.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";

/** Something like a training step: a loss, statistics in state, and an update of the parameters in place. */
function stepProgram(size: number): Program {
  const shape = [size];
  return trace((g) => {
    const [p, m, v] = ["p", "m", "v"].map((name) =>
      input(g, name, { shape, dtype: "f32", role: "state" })
    );
    const x = input(g, "x", { shape: [4, size], dtype: "f32" });
    const w = input(g, "w", { shape, dtype: "f32", role: "weight" });
    const error = sub(mul(x, add(p, w)), 1);
    const gradient = mul(sum(mul(error, x), { axes: [0] }), 0.5);
    const nextM = add(mul(m, 0.9), mul(gradient, 0.1));
    const nextV = add(mul(v, 0.99), mul(mul(gradient, gradient), 0.01));
    return {
      loss: mean(mul(error, error)),
      norm: sqrt(sum(mul(gradient, gradient))),
      p: sub(p, mul(div(nextM, add(sqrt(nextV), 1e-8)), 0.01)),
      m: nextM,
      v: nextV,
    };
  }, { updates: { p: "p", m: "m", v: "v" } });
}

const rows = (size: number, seed: number) =>
  tensor(Float32Array.from({ length: 4 * size }, (_, i) => Math.sin(i * 0.7 + seed)), {
    shape: [4, size],
  });

Deno.test("a step in the steady state makes no buffer, bind group or pipeline", async () => {
  using device = await createWebGpuDevice();
  const made: string[] = [];
  const gpu = device.gpu as unknown as Record<string, (...args: unknown[]) => unknown>;
  let watch = false;
  for (
    const method of [
      "createBuffer",
      "createBindGroup",
      "createBindGroupLayout",
      "createComputePipeline",
      "createComputePipelineAsync",
      "createShaderModule",
    ]
  ) {
    const original = gpu[method].bind(device.gpu);
    gpu[method] = (...args) => {
      if (watch) made.push(method);
      return original(...args);
    };
  }
  const size = 1000;
  const executable = await device.compile(stepProgram(size));
  using state = device.createState(
    Object.fromEntries(["p", "m", "v"].map((n) => [n, { shape: [size], dtype: "f32" }])),
  );
  const w = tensor(new Float32Array(size).fill(0.25));
  let first = Infinity;
  for (let step = 0; step < 6; step++) {
    const before = device.memory();
    watch = step >= 2;
    const { loss } = await executable.run({ x: rows(size, step % 3), w }, { state });
    const [value] = await loss.data();
    if (step === 0) first = Number(value);
    if (step >= 2) assertEquals(device.memory(), before);
    if (step === 5) assert(Number(value) < first, `the loss rises from ${first} to ${value}`);
  }
  assertEquals(made, []);
});

Deno.test("outputs that are not read are not waited for, and change nothing that is made", async () => {
  using device = await createWebGpuDevice();
  const executable = await device.compile(stepProgram(64));
  using state = device.createState(
    Object.fromEntries(["p", "m", "v"].map((n) => [n, { shape: [64], dtype: "f32" }])),
  );
  const w = tensor(new Float32Array(64)), x = rows(64, 1);
  await executable.run({ x, w }, { state, read: [] });
  const before = device.memory();
  for (let i = 0; i < 20; i++) {
    assertEquals(await executable.run({ x, w }, { state, read: [] }), {});
  }
  assertEquals(device.memory(), before);
  const data = await (await state.read("p")).data();
  assert(data.every((v) => Math.abs(Number(v)) > 0.01), `the state stands still at ${data[0]}`);
});

Deno.test("a thousand compile–run–drop cycles hold device memory constant", async () => {
  using device = await createWebGpuDevice();
  const shape = [7, 33];
  const cycle = async (n: number): Promise<Executable> => {
    const program = trace((g) => {
      const x = input(g, "x", { shape, dtype: "f32" });
      return { y: sum(exp(mul(x, 0.5)), { axes: [1] }) };
    });
    const executable = await device.compile(program);
    const x = tensor(new Float32Array(7 * 33).fill(n / 1000), { shape });
    // Reading takes Deno 10 ms, so most cycles only run.
    const read = n % 20 === 0 ? ["y"] : [];
    const { y } = await executable.run({ x }, { read });
    if (y) {
      const [value] = await y.data();
      const expected = 33 * Math.exp(n / 2000);
      assert(Math.abs(Number(value) - expected) < 1e-4, `${value} is not ${expected}`);
    }
    return executable;
  };
  const first = await cycle(0);
  const before = device.memory();
  for (let n = 1; n <= 1000; n++) assertEquals(await cycle(n) === first, true);
  assertEquals(device.memory(), before);
});
