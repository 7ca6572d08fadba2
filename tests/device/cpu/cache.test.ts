import { assertEquals, assertRejects } from "@std/assert";
import { createCpuDevice } from "../../../lib/device/cpu/mod.ts";
import { lower } from "../../../lib/device/cpu/lower.ts";
import { ShapeError } from "../../../lib/errors.ts";
import { attention } from "../../../lib/ops/attention.ts";
import { cacheUpdate } from "../../../lib/ops/cache-update.ts";
import { input } from "../../../lib/ops/input.ts";
import { type Program, trace } from "../../../lib/program/program.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";

const CAPACITY = 9;
const SIZES = { batch: 2, heads: 4, groups: 2, size: 3 };

/** Attention of `length` new positions over a cache, as generation runs it. */
function step(length: number): Program {
  const { batch, heads, groups, size } = SIZES;
  return trace((graph) => {
    const rows = (name: string, n: number) =>
      input(graph, name, { shape: [batch, length, n, size], dtype: "f32" });
    const cache = (name: string) =>
      input(graph, name, { shape: [batch, CAPACITY, groups, size], dtype: "f32", role: "state" });
    const ints = (name: string, shape: number[]) => input(graph, name, { shape, dtype: "i32" });
    const offset = ints("offset", [1]);
    const k = cacheUpdate(cache("keys"), rows("k", groups), { offset });
    const v = cacheUpdate(cache("values"), rows("v", groups), { offset });
    const y = attention(rows("q", heads), {
      k,
      v,
      querySegments: ints("query", [batch, length]),
      keySegments: ints("key", [batch, CAPACITY]),
      offset,
      causal: true,
    });
    return { y, k, v };
  }, { updates: { keys: "k", values: "v" } });
}

function rowsOf(length: number, count: number, seed: number): Tensor {
  const { batch, size } = SIZES;
  const data = Float32Array.from(
    { length: batch * length * count * size },
    (_, i) => Math.sin(seed + i * 1.7),
  );
  return tensor(data, { shape: [batch, length, count, size] });
}

/** Rows from … to of the second axis. */
async function part(t: Tensor, from: number, to: number): Promise<Tensor> {
  const [b, n, h, d] = t.shape, row = h * d;
  const data = await t.data() as Float32Array;
  const out = new Float32Array(b * (to - from) * row);
  for (let i = 0; i < b; i++) {
    out.set(data.subarray((i * n + from) * row, (i * n + to) * row), i * (to - from) * row);
  }
  return tensor(out, { shape: [b, to - from, h, d] });
}

const CACHE = { shape: [SIZES.batch, CAPACITY, SIZES.groups, SIZES.size], dtype: "f32" } as const;

function segments(offset: number, length: number) {
  const { batch } = SIZES;
  // The first sample is padded by one on the left.
  const key = Int32Array.from(
    { length: batch * CAPACITY },
    (_, i) => i % CAPACITY < offset + length && i ? 1 : 0,
  );
  const query = Int32Array.from(
    { length: batch * length },
    (_, i) => i % length + offset || i >= length ? 1 : 0,
  );
  return {
    key: tensor(key, { shape: [batch, CAPACITY] }),
    query: tensor(query, { shape: [batch, length] }),
    offset: tensor(Int32Array.of(offset)),
  };
}

Deno.test({
  name: "a prompt and single steps over a cache give what one pass gives",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    using device = await createCpuDevice();
    const q = rowsOf(7, 4, 1), k = rowsOf(7, 2, 2), v = rowsOf(7, 2, 3);
    const whole = device.createState({ keys: CACHE, values: CACHE });
    const all = await (await device.compile(step(7))).run({ q, k, v, ...segments(0, 7) }, {
      state: whole,
    });
    const expected = await all.y.data() as Float32Array;

    const state = device.createState({ keys: CACHE, values: CACHE });
    let worst = 0;
    for (const [from, to] of [[0, 4], [4, 5], [5, 6], [6, 7]]) {
      const executable = await device.compile(step(to - from));
      const [a, b, c] = await Promise.all([q, k, v].map((t) => part(t, from, to)));
      const result = await executable.run({ q: a, k: b, v: c, ...segments(from, to - from) }, {
        state,
      });
      const actual = await result.y.data() as Float32Array;
      const wanted = await (await part(tensor(expected, { shape: [2, 7, 4, 3] }), from, to)).data();
      actual.forEach((x, i) => {
        // The padded query sees nothing.
        if (from > 0 || i >= 12) worst = Math.max(worst, Math.abs(x - (wanted[i] as number)));
      });
    }
    assertEquals(worst < 1e-6, true, `off by ${worst}`);
    assertEquals(await (await state.read("keys")).data(), await (await whole.read("keys")).data());
    assertEquals(
      await (await state.read("values")).data(),
      await (await whole.read("values")).data(),
    );
  },
});

Deno.test({
  name: "a cache that is full refuses rows and stays as it was",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    using device = await createCpuDevice();
    using state = device.createState({ keys: CACHE, values: CACHE });
    const executable = await device.compile(step(1));
    const rows = { q: rowsOf(1, 4, 1), k: rowsOf(1, 2, 2), v: rowsOf(1, 2, 3) };
    await assertRejects(
      async () => await executable.run({ ...rows, ...segments(9, 1) }, { state }),
      ShapeError,
      "1 rows at 9 do not fit",
    );
    assertEquals((await (await state.read("keys")).data()).every((x) => x === 0), true);
  },
});

Deno.test("a step over a cache copies no cache", () => {
  const { graph } = lower(step(1), { embed: "packed", hostMasks: true });
  // The updated caches are outputs of the program here, so two copies there are, but attention reads none of them.
  const scattered = graph.nodes.filter((n) => n.operator === "ScatterND");
  const made = new Set(scattered.flatMap((n) => n.outputs));
  assertEquals(graph.nodes.filter((n) => n.inputs.some((i) => made.has(i))), []);
});
