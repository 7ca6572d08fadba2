import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { createCpuDevice } from "../../../lib/device/cpu/mod.ts";
import { DeviceError, ShapeError, ValueError } from "../../../lib/errors.ts";
import { add, mul, sub } from "../../../lib/ops/elementwise.ts";
import { gather } from "../../../lib/ops/gather.ts";
import { input } from "../../../lib/ops/input.ts";
import { matmul } from "../../../lib/ops/matmul.ts";
import { matmulQuantized } from "../../../lib/ops/matmul-quantized.ts";
import { sum } from "../../../lib/ops/reduce.ts";
import { type Program, trace } from "../../../lib/program/program.ts";
import { float32ToBits } from "../../../lib/tensor/convert.ts";
import { lazyTensor, type Tensor, tensor } from "../../../lib/tensor/tensor.ts";

/** Sessions are opened and closed between tests, and their finalizers are not ops of a test. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

async function numbers(t: Tensor): Promise<number[]> {
  return [...(await t.data()) as Float32Array];
}

function linear(dtype: "f32" | "f16" = "f32"): Program {
  void dtype;
  return trace((graph) => {
    const x = input(graph, "x", { shape: [2, 3], dtype: "f32" });
    const w = input(graph, "w", { shape: [2, 3], dtype: "f32", role: "weight" });
    return { y: matmul(x, w, { transposeB: true }), total: sum(x) };
  });
}

const X = tensor([[1, 2, 3], [4, 5, 6]]);
const W = tensor([[0.5, -1, 2], [3, 0, -2]]);
const Y = [4.5, -3, 9, 0];

test("a program runs on the given threads", async () => {
  using device = await createCpuDevice({ threads: 1 });
  assertEquals([device.kind, device.threads], ["cpu", 1]);
  assertStringIncludes(device.description, "1 thread");
  const executable = await device.compile(linear());
  const { y, total } = await executable.run({ x: X, w: W });
  assertEquals(await numbers(y), Y);
  assertEquals(await numbers(total), [21]);
});

test("equal programs share an executable, and a run creates nothing", async () => {
  using device = await createCpuDevice();
  const executable = await device.compile(linear());
  assertStrictEquals(await device.compile(linear()), executable);
  await executable.run({ x: X, w: W });
  const before = device.memory();
  assertEquals(before.pipelinesCreated, 1);
  for (let i = 0; i < 5; i++) await executable.run({ x: tensor([[i, 1, 1], [1, i, 1]]), w: W });
  assertEquals(device.memory(), before);
});

test("only what is read is computed", async () => {
  using device = await createCpuDevice();
  const executable = await device.compile(linear());
  // The total needs no weight.
  const result = await executable.run({ x: X }, { read: ["total"] });
  assertEquals(Object.keys(result), ["total"]);
  assertEquals(await numbers(result.total), [21]);
  const error = await assertRejects(
    async () => await executable.run({ x: X, w: W }, { read: ["z"] }),
    ValueError,
  );
  assertStringIncludes(error.message, "no output z; it has y, total");
});

test("weights in f32 are not copied, others are converted once and kept until they are released", async () => {
  using device = await createCpuDevice();
  const executable = await device.compile(linear());
  await executable.run({ x: X, w: W });
  assertEquals(device.memory().bytes, 0);

  let reads = 0;
  const stored = float32ToBits(await W.data() as Float32Array, "f16");
  const half = lazyTensor({ dtype: "f16", shape: [2, 3] }, () => {
    reads++;
    return Promise.resolve(new Uint8Array(stored.buffer));
  });
  assertEquals(device.weightType("f16"), "f32");
  for (let i = 0; i < 3; i++) {
    assertEquals(await numbers((await executable.run({ x: X, w: half })).y), Y);
  }
  assertEquals(reads, 1);
  assertEquals([device.memory().bytes, device.memory().buffers], [24, 1]);
  device.release([half]);
  assertEquals([device.memory().bytes, device.memory().buffers], [0, 0]);
  await executable.run({ x: X, w: half });
  assertEquals(reads, 2);
  assertEquals(device.memory().buffersCreated, 2);
});

test("inputs that are missing or do not fit are named", async () => {
  using device = await createCpuDevice();
  const executable = await device.compile(linear());
  const cases: readonly [Record<string, Tensor>, string][] = [
    [{ x: X }, 'input "w" (missing are w)'],
    [{}, "missing are x, w"],
    [{ x: X, w: tensor([[1, 2], [3, 4]]) }, '"w" is f32[2,3], but a tensor f32[2,2]'],
    [
      { x: tensor([[1, 2, 3], [4, 5, 6]], { dtype: "i32" }), w: W },
      '"x" is f32[2,3], but a tensor i32',
    ],
  ];
  for (const [inputs, part] of cases) {
    const error = await assertRejects(async () => await executable.run(inputs), ShapeError);
    assertStringIncludes(error.message, part);
  }
  // The device still works.
  assertEquals(await numbers((await executable.run({ x: X, w: W })).y), Y);
});

test("an error of the runtime names the operation", async () => {
  using device = await createCpuDevice();
  const program = trace((graph) => {
    const table = input(graph, "table", { shape: [4, 2], dtype: "f32" });
    const ids = input(graph, "ids", { shape: [1], dtype: "i32" });
    return { rows: gather(table, ids) };
  });
  const executable = await device.compile(program);
  const table = tensor(new Float32Array(8), { shape: [4, 2] });
  const error = await assertRejects(
    async () => await executable.run({ table, ids: tensor(Int32Array.of(4)) }),
    DeviceError,
  );
  assertStringIncludes(error.message, 'in the operation "gather"');
  assertEquals(error.details.op, "gather");
});

/** Adds `x` to a state and gives the difference from before. */
function counter(): Program {
  return trace((graph) => {
    const total = input(graph, "total", { shape: [3], dtype: "f32", role: "state" });
    const other = input(graph, "other", { shape: [3], dtype: "f32", role: "state" });
    const x = input(graph, "x", { shape: [3], dtype: "f32" });
    const next = add(total, x);
    return { next, swapped: total, change: sub(next, other) };
  }, { updates: { total: "next", other: "swapped" } });
}

const COUNTER = {
  total: { shape: [3], dtype: "f32" },
  other: { shape: [3], dtype: "f32" },
} as const;

test("state starts at zero and takes the program's updates", async () => {
  using device = await createCpuDevice();
  using state = device.createState(COUNTER);
  const executable = await device.compile(counter());
  assertEquals([device.memory().bytes, device.memory().buffers], [24, 2]);
  const x = tensor([1, 2, 3]);
  assertEquals(await numbers((await executable.run({ x }, { state })).change), [1, 2, 3]);
  await state.write("other", tensor([10, 20, 30]));
  const second = await executable.run({ x }, { state, read: ["next", "change"] });
  assertEquals(await numbers(second.change), [-8, -16, -24]);
  assertEquals(await numbers(second.next), [2, 4, 6]);
  assertEquals(await numbers(await state.read("total")), [2, 4, 6]);
  assertEquals(await numbers(await state.read("other")), [1, 2, 3]);
  // What was given out does not change with the state.
  await executable.run({ x }, { state });
  assertEquals(await numbers(second.next), [2, 4, 6]);
  assertEquals(device.memory().bytes, 24);
});

test("runs that are started together follow each other", async () => {
  using device = await createCpuDevice();
  using state = device.createState(COUNTER);
  const executable = await device.compile(counter());
  const runs = [1, 2, 3].map((v) => executable.run({ x: tensor([v, v, v]) }, { state }));
  const changes = await Promise.all(
    runs.map(async (run) => (await numbers((await run).change))[0]),
  );
  assertEquals(changes, [1, 3, 5]);
  assertEquals(await numbers(await state.read("total")), [6, 6, 6]);
});

test("state that is missing or does not fit is named", async () => {
  using device = await createCpuDevice();
  using other = await createCpuDevice();
  const executable = await device.compile(counter());
  const x = tensor([1, 2, 3]);
  await assertRejects(async () => await executable.run({ x }), ShapeError, '"total"');
  using small = device.createState({ ...COUNTER, other: { shape: [2], dtype: "f32" } });
  await assertRejects(
    async () => await executable.run({ x }, { state: small }),
    ShapeError,
    '"other"',
  );
  using state = device.createState(COUNTER);
  await assertRejects(() => state.write("total", tensor([1, 2])), ShapeError, "f32[2]");
  await assertRejects(async () => await state.read("totals"), ShapeError, "total, other");
  void other;
});

test("a state that is disposed of gives its memory back", async () => {
  using device = await createCpuDevice();
  const state = device.createState(COUNTER);
  state[Symbol.dispose]();
  state[Symbol.dispose]();
  assertEquals(device.memory().bytes, 0);
  const executable = await device.compile(counter());
  await assertRejects(
    async () => await executable.run({ x: tensor([1, 2, 3]) }, { state }),
    DeviceError,
    "disposed",
  );
});

test("16-bit state is rounded and comes back in its type", async () => {
  using device = await createCpuDevice();
  using state = device.createState({ h: { shape: [2], dtype: "f16" } });
  await state.write("h", tensor([0.1, -3]));
  const t = await state.read("h");
  assertEquals(t.dtype, "f16");
  assertEquals([...await t.data() as Uint16Array], [
    ...float32ToBits(Float32Array.of(0.1, -3), "f16"),
  ]);
});

function quantizedProduct(): Program {
  return trace((graph) => {
    const x = input(graph, "x", { shape: [1, 32], dtype: "f32" });
    const packed = input(graph, "packed", { shape: [2, 16], dtype: "u8", role: "weight" });
    const scales = input(graph, "scales", { shape: [2, 1], dtype: "f32", role: "weight" });
    const weight = { packed, scales, bits: 4, block: 32 } as const;
    return { y: mul(matmulQuantized(x, weight, { transposeB: true }), 0.5) };
  });
}

test("quantized weights are part of sessions, one for each set of weights", async () => {
  using device = await createCpuDevice();
  const executable = await device.compile(quantizedProduct());
  assertEquals(device.memory().pipelinesCreated, 0);
  const x = tensor(new Float32Array(32).fill(1), { shape: [1, 32] });
  const weights = (q: number, scale: number) => ({
    packed: tensor(new Uint8Array(32).fill(q * 17), { shape: [2, 16] }),
    scales: tensor([[scale], [2 * scale]]),
  });
  const first = weights(9, 0.25), second = weights(3, 1);
  for (let i = 0; i < 2; i++) {
    assertEquals(await numbers((await executable.run({ x, ...first })).y), [4, 8]);
    assertEquals(await numbers((await executable.run({ x, ...second })).y), [-80, -160]);
  }
  assertEquals(device.memory().pipelinesCreated, 2);
  // A third to a fifth set; the first is then the one that was used longest ago.
  for (const scale of [2, 3, 4]) await executable.run({ x, ...weights(9, scale) });
  assertEquals(device.memory().pipelinesCreated, 5);
  await executable.run({ x, ...second });
  assertEquals(device.memory().pipelinesCreated, 5);
  device.release([second.packed]);
  assertEquals(await numbers((await executable.run({ x, ...first })).y), [4, 8]);
  assertEquals(await numbers((await executable.run({ x, ...second })).y), [-80, -160]);
  assertEquals(device.memory().pipelinesCreated, 7);
});

test("a device that was disposed of refuses work", async () => {
  const device = await createCpuDevice();
  const executable = await device.compile(linear());
  device[Symbol.dispose]();
  device[Symbol.dispose]();
  const error = assertThrows(() => void device.compile(counter()));
  assertInstanceOf(error, DeviceError);
  assertThrows(() => void executable.run({ x: X, w: W }), DeviceError);
  assert(device.memory().bytes === 0);
});
