import { createSizes } from "../../../kernels/sizes.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { createWebGpuDevice } from "../../../lib/device/webgpu/mod.ts";
import { createMemory } from "../../../lib/device/webgpu/memory.ts";
import { createPipelineCache } from "../../../lib/device/webgpu/pipelines.ts";
import { DeviceError, ShapeError, ValueError } from "../../../lib/errors.ts";
import { add, mul } from "../../../lib/ops/elementwise.ts";
import { input } from "../../../lib/ops/input.ts";
import { transpose } from "../../../lib/ops/transpose.ts";
import { trace } from "../../../lib/program/program.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";

const program = trace((g) => ({ y: mul(input(g, "x", { shape: [3], dtype: "f32" }), 2) }));
const x = tensor([1, 2, 3]);

Deno.test("inputs, outputs and states that do not fit are named", async () => {
  using device = await createWebGpuDevice();
  const executable = await device.compile(program);
  const missing = await assertRejects(() => executable.run({}), ValueError);
  assert(missing.message.includes('"x" (f32[3])'), missing.message);
  const shape = await assertRejects(() => executable.run({ x: tensor([1, 2]) }), ShapeError);
  assert(shape.message.includes("[2]") && shape.message.includes("f32[3]"), shape.message);
  const output = await assertRejects(() => executable.run({ x }, { read: ["z"] }), ValueError);
  assert(output.message.includes('"z"') && output.message.includes("y"), output.message);

  const counter = await device.compile(trace((g) => {
    const s = input(g, "s", { shape: [2], dtype: "f32", role: "state" });
    return { s: add(s, 1) };
  }, { updates: { s: "s" } }));
  await assertRejects(() => counter.run({}), ValueError, "createState");
  using wrong = device.createState({ s: { shape: [3], dtype: "f32" } });
  const state = await assertRejects(() => counter.run({}, { state: wrong }), ShapeError);
  assert(state.message.includes("f32[3]"), state.message);
  await assertRejects(() => wrong.write("t", x), ValueError, "no entry");
  await assertRejects(() => wrong.write("s", tensor([1])), ShapeError);
  using other = await createWebGpuDevice();
  using foreign = other.createState({ s: { shape: [2], dtype: "f32" } });
  await assertRejects(() => counter.run({}, { state: foreign }), ValueError, "createState");
});

Deno.test("an update of what is no state is refused", async () => {
  using device = await createWebGpuDevice();
  const updating = trace((g) => ({ y: add(input(g, "x", { shape: [3], dtype: "f32" }), 1) }), {
    updates: { x: "y" },
  });
  await assertRejects(() => device.compile(updating), ValueError, '"x"');
});

Deno.test("a kernel that does not compile is named", async () => {
  using device = await createWebGpuDevice();
  const pipelines = createPipelineCache(device.gpu, createMemory(device.gpu));
  const bad = "@compute @workgroup_size(1) fn main() { nothing(); }";
  const error = await assertRejects(
    () =>
      pipelines.get({ source: bad, sizes: createSizes() }, {
        bindings: 0,
        what: "The kernel of wave f32[4]",
      }),
    DeviceError,
  );
  assertEquals(error.code, "KERNEL_COMPILE");
  assert(error.message.includes("wave f32[4]") && error.message.includes("nothing"), error.message);
  // The device goes on working.
  const { y } = await (await device.compile(program)).run({ x });
  assertEquals([...await y.data()], [2, 4, 6]);
});

Deno.test("a value that is too large for one binding and cannot be split is named", async () => {
  using device = await createWebGpuDevice({ maxBindingBytes: 4096 });
  const large = trace((g) => ({
    y: transpose(input(g, "x", { shape: [64, 33], dtype: "f32" })),
  }));
  const error = await assertRejects(() => device.compile(large), DeviceError);
  assertEquals(error.code, "BINDING_SIZE");
  assert(error.message.includes("transpose"), error.message);
});

Deno.test("a buffer beyond the adapter's limit is an error, not a crash", async () => {
  using device = await createWebGpuDevice();
  const shape = [device.gpu.limits.maxBufferSize / 4 + 1024];
  const error = assertThrows(
    () => device.createState({ huge: { shape, dtype: "f32" } }),
    DeviceError,
  );
  assert(error.message.includes('"huge"'), error.message);
  assertEquals(device.memory().buffers, 0);
});

Deno.test("memory that runs out is an error that says for what, and leaves nothing behind", async () => {
  using device = await createWebGpuDevice();
  const executable = await device.compile(trace((g) => ({
    y: mul(
      input(g, "x", { shape: [3], dtype: "f32" }),
      input(g, "w", { shape: [3], dtype: "f32", role: "weight" }),
    ),
  })));
  const gpu = device.gpu as { popErrorScope: () => Promise<GPUError | null> };
  const pop = gpu.popErrorScope.bind(gpu);
  for (const what of ['"w"', "input"]) {
    gpu.popErrorScope = async () => {
      await pop();
      return { message: "Not enough memory left" } as GPUError;
    };
    const error = await assertRejects(() => executable.run({ x, w: x }), DeviceError);
    gpu.popErrorScope = pop;
    assertEquals(error.code, "DEVICE_MEMORY");
    assert(error.message.includes(what), error.message);
    // The weight is there next time, so that the executable's own buffers are what fails.
    if (what === '"w"') {
      assertEquals(device.memory().buffers, 0);
      await (await device.compile(trace((g) => ({
        y: mul(input(g, "w", { shape: [3], dtype: "f32", role: "weight" }), 2),
      })))).run({ w: x });
    }
  }
  assertEquals([...await (await executable.run({ x, w: x })).y.data()], [1, 4, 9]);
});

Deno.test("what the device reports by itself comes with the next call", async () => {
  using device = await createWebGpuDevice();
  const executable = await device.compile(program);
  await executable.run({ x });
  device.gpu.createBuffer({ size: 2 ** 40, usage: GPUBufferUsage.STORAGE });
  await new Promise((resolve) => setTimeout(resolve, 10));
  const error = await assertRejects(() => executable.run({ x }), DeviceError);
  assert(error.message.includes("Buffer size"), error.message);
  assertEquals([...await (await executable.run({ x })).y.data()], [2, 4, 6]);
});

Deno.test("a lost device and a disposed one say so", async () => {
  const lost = await createWebGpuDevice();
  const executable = await lost.compile(program);
  await executable.run({ x });
  lost.gpu.destroy();
  await lost.gpu.lost;
  const error = await assertRejects(() => executable.run({ x }), DeviceError);
  assertEquals(error.code, "DEVICE_LOST");
  lost[Symbol.dispose]();
  const disposed = await assertRejects(() => executable.run({ x }), DeviceError);
  assertEquals(disposed.code, "DEVICE_DISPOSED");
  lost[Symbol.dispose]();
});
