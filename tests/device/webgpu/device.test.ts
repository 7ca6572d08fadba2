import { assert, assertEquals } from "@std/assert";
import { createWebGpuDevice } from "../../../lib/device/webgpu/mod.ts";
import { add, greater, mul, not, sub } from "../../../lib/ops/elementwise.ts";
import { cast } from "../../../lib/ops/cast.ts";
import { concat } from "../../../lib/ops/concat.ts";
import { input } from "../../../lib/ops/input.ts";
import { reshape } from "../../../lib/ops/reshape.ts";
import { sliceAxis } from "../../../lib/ops/slice.ts";
import type { ValueType } from "../../../lib/ops/value.ts";
import { trace } from "../../../lib/program/program.ts";
import { float32ToBits } from "../../../lib/tensor/convert.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";

Deno.test("the device tells what it is", async () => {
  using device = await createWebGpuDevice();
  assertEquals(device.kind, "webgpu");
  assert(device.description.length > 3);
  assertEquals(typeof device.isFallback, "boolean");
  if (/llvmpipe|swiftshader/i.test(device.description)) assert(device.isFallback);
  assertEquals(device.weightType("bf16"), "bf16");
  assertEquals(device.weightType("i64"), "i32");
  const half = device.gpu.features.has("shader-f16") ? "f16" : "f32";
  assertEquals(device.weightType("f16"), half);
});

for (const size of [1, 3, 4, 6, 7, 64, 131]) {
  Deno.test(`${size} elements of every type are read, computed with and written`, async () => {
    using device = await createWebGpuDevice({ debug: true });
    const numbers = Array.from({ length: size }, (_, i) => (i * 37 % 41) - 20.5 + (i % 3) * 0.25);
    const positive = numbers.map((v) => Math.abs(Math.trunc(v)) % 128);
    const program = trace((g) => {
      const of = (name: string, dtype: ValueType) => input(g, name, { shape: [size], dtype });
      const f32 = of("f32", "f32"), f16 = of("f16", "f16"), bf16 = of("bf16", "bf16");
      const u8 = of("u8", "u8"), i32 = of("i32", "i32"), bool = of("bool", "bool");
      return {
        f32: add(add(f32, cast(f16, "f32")), add(cast(bf16, "f32"), cast(u8, "f32"))),
        f16: cast(mul(f32, 1.5), "f16"),
        bf16: cast(mul(f32, 1.0009765625), "bf16"),
        u8: cast(add(cast(u8, "i32"), 3), "u8"),
        i32: sub(i32, cast(f32, "i32")),
        bool: not(bool),
        compared: greater(f32, 0),
        counted: cast(bool, "f32"),
      };
    });
    const i64 = BigInt64Array.from(numbers, (v) => BigInt(Math.trunc(v)) * 1000n);
    const f32s = Float32Array.from(numbers);
    const { f32, f16, bf16, u8, i32, bool, compared, counted } =
      await (await device.compile(program))
        .run({
          f32: tensor(f32s),
          f16: tensor(float32ToBits(f32s, "f16"), { dtype: "f16" }),
          bf16: tensor(float32ToBits(f32s, "bf16"), { dtype: "bf16" }),
          u8: tensor(Uint8Array.from(positive)),
          i32: tensor(i64),
          bool: tensor(Uint8Array.from(numbers, (v) => Number(v > 5)), { dtype: "bool" }),
        });
    assertEquals(
      [...await f32.data()],
      numbers.map((v, i) => 3 * v + positive[i]),
    );
    assertEquals(await f16.data(), float32ToBits(f32s.map((v) => v * 1.5), "f16"));
    assertEquals(await bf16.data(), float32ToBits(f32s.map((v) => v * 1.0009765625), "bf16"));
    assertEquals(await u8.data(), Uint8Array.from(positive, (v) => v + 3));
    assertEquals(
      [...await i32.data()],
      numbers.map((v) => Math.trunc(v) * 999),
    );
    assertEquals(await bool.data(), Uint8Array.from(numbers, (v) => Number(!(v > 5))));
    assertEquals(await compared.data(), Uint8Array.from(numbers, (v) => Number(v > 0)));
    assertEquals([...await counted.data()], numbers.map((v) => Number(v > 5)));
  });
}

Deno.test("states that take each other's values change places", async () => {
  using device = await createWebGpuDevice({ debug: true });
  const program = trace((g) => {
    const [a, b] = ["a", "b"].map((n) => input(g, n, { shape: [5], dtype: "f32", role: "state" }));
    return { a: b, b: a, old: a };
  }, { updates: { a: "a", b: "b" } });
  using state = device.createState({
    a: { shape: [5], dtype: "f32" },
    b: { shape: [5], dtype: "f32" },
  });
  await state.write("a", tensor([1, 2, 3, 4, 5]));
  await state.write("b", tensor([6, 7, 8, 9, 10]));
  const { old } = await (await device.compile(program)).run({}, { state });
  assertEquals([...await old.data()], [1, 2, 3, 4, 5]);
  assertEquals([...await (await state.read("a")).data()], [6, 7, 8, 9, 10]);
  assertEquals([...await (await state.read("b")).data()], [1, 2, 3, 4, 5]);
});

Deno.test("slices of one flat vector are views, and pieces of another are written in place", async () => {
  using device = await createWebGpuDevice({ debug: true });
  const pieces = 12, length = 64 * 3;
  const program = trace((g) => {
    const flat = input(g, "flat", { shape: [pieces * length], dtype: "f32", role: "state" });
    const parts = Array.from(
      { length: pieces },
      (_, i) => reshape(sliceAxis(flat, { axis: 0, start: i * length, size: length }), [3, 64]),
    );
    // Each piece has a shape of its own, so that they cannot be one kernel.
    const next = parts.map((p, i) => reshape(mul(p, i + 1), [length]));
    return { flat: concat(next, { axis: 0 }) };
  }, { updates: { flat: "flat" } });
  using state = device.createState({ flat: { shape: [pieces * length], dtype: "f32" } });
  const start = Float32Array.from({ length: pieces * length }, (_, i) => i % 17 - 8);
  await state.write("flat", tensor(start));
  const executable = await device.compile(program);
  await executable.run({}, { state });
  await executable.run({}, { state });
  assertEquals(
    await (await state.read("flat")).data(),
    start.map((v, i) => v * (Math.floor(i / length) + 1) ** 2),
  );
});

Deno.test("runs at the same time keep their inputs apart", async () => {
  using device = await createWebGpuDevice();
  const program = trace((g) => ({ y: mul(input(g, "x", { shape: [500], dtype: "f32" }), 3) }));
  const executable = await device.compile(program);
  const results = await Promise.all(
    Array.from({ length: 10 }, async (_, i) => {
      const { y } = await executable.run({ x: tensor(new Float32Array(500).fill(i)) });
      return Number((await y.data())[499]);
    }),
  );
  assertEquals(results, Array.from({ length: 10 }, (_, i) => 3 * i));
});

Deno.test("an executable that gave up its buffers runs again", async () => {
  using device = await createWebGpuDevice({ maxExecutables: 2 });
  const scaled = (factor: number) =>
    device.compile(trace((g) => ({
      y: mul(add(input(g, "x", { shape: [300], dtype: "f32" }), 1), factor),
    })));
  const x = tensor(new Float32Array(300).fill(2));
  const first = await scaled(1);
  await first.run({ x });
  const { bytes } = device.memory();
  for (let f = 2; f < 12; f++) await (await scaled(f)).run({ x });
  assert(device.memory().bytes <= 3 * bytes, `${device.memory().bytes} bytes are held`);
  assertEquals(Number((await (await first.run({ x })).y.data())[7]), 3);
});
