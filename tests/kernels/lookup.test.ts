import { assertEquals } from "@std/assert";
import { cacheUpdateKernel } from "../../kernels/cache-update.ts";
import { dequantizeKernel, gatherKernel } from "../../kernels/gather.ts";
import { scatterAddKernel } from "../../kernels/scatter-add.ts";
import { ropeKernel } from "../../kernels/rope.ts";
import { assertNear, openGpu, randoms } from "./run-kernel.ts";

const numbers = (length: number, make: (i: number) => number) =>
  Array.from({ length }, (_, i) => make(i));

Deno.test("gather copies rows of any type and length, and keeps ids inside the table", async () => {
  using gpu = await openGpu();
  const ids = Int32Array.of(3, 0, 6, 3, -5, 99, 5);
  const rowOf = (id: number) => Math.min(Math.max(id, 0), 6);
  for (
    const [dtype, array] of [
      ["f32", Float32Array],
      ["i32", Int32Array],
      ["bf16", Uint16Array],
      ["u8", Uint8Array],
    ] as const
  ) {
    for (const length of [16, 6, 5]) {
      const table = new array(numbers(7 * length, (i) => (i * 37 + 11) % 251));
      const expected = new array(
        numbers(
          ids.length * length,
          (i) => table[rowOf(ids[Math.floor(i / length)]) * length + i % length],
        ),
      );
      const kernel = gatherKernel({ count: ids.length, rows: 7, length }, dtype);
      const y = await gpu.run(kernel, { inputs: [table, ids], output: expected.byteLength });
      assertEquals(new array(y).slice(0, expected.length), expected);
    }
  }
});

Deno.test("quantized tables are read by rows and as a whole", async () => {
  using gpu = await openGpu({ epilogue: "indexed" });
  const rows = 5, length = 96;
  for (const [bits, block] of [[4, 32], [8, 16]] as const) {
    const q = Uint8Array.from({ length: rows * length }, (_, i) => (i * 29 + 3) % 2 ** bits);
    const packed = bits === 8
      ? q
      : Uint8Array.from({ length: q.length / 2 }, (_, i) => q[2 * i] | (q[2 * i + 1] << 4));
    const scales = randoms(q.length / block, 1), offsets = randoms(q.length / block, 2);
    const whole = Float64Array.from(q, (v, i) => {
      const b = Math.floor(i / block);
      return (v - 2 ** (bits - 1)) * scales[b] + offsets[b];
    });
    const ids = Int32Array.of(4, 0, 4, 77, -1);
    const chosen = [4, 0, 4, 4, 0].flatMap((
      r,
    ) => [...whole.subarray(r * length, (r + 1) * length)]);
    const table = (first: number) => ({
      format: { bits, block, offsets: true },
      lines: rows,
      length,
      bindings: [first, first + 1, first + 2],
    });
    const after = (v: number, i: number) => 2 * v + 1 + i % 7;
    const a = await gpu.run(dequantizeKernel(table(0)), {
      inputs: [packed, scales, offsets],
      output: whole.length * 4,
    });
    assertNear(new Float32Array(a), whole.map(after), { tolerance: 1e-6, what: "whole" });
    const b = await gpu.run(
      dequantizeKernel(table(1), { ids: { input: 0, count: ids.length } }),
      { inputs: [ids, packed, scales, offsets], output: chosen.length * 4 },
    );
    assertNear(new Float32Array(b), chosen.map(after), { tolerance: 1e-6, what: "rows" });
  }
});

Deno.test("scatterAdd sums repeated ids and leaves zeros elsewhere", async () => {
  using gpu = await openGpu();
  for (const length of [12, 5]) {
    const rows = 40, count = 150;
    const ids = Int32Array.from({ length: count }, (_, i) => i % 3 === 0 ? 7 : (i * i) % 23);
    const updates = randoms(count * length, 9);
    const expected = new Float64Array(rows * length);
    for (let n = 0; n < count; n++) {
      for (let d = 0; d < length; d++) expected[ids[n] * length + d] += updates[n * length + d];
    }
    // What was there before must not stay.
    const before = new Float32Array(rows * length).fill(3);
    const run = () =>
      gpu.run(scatterAddKernel({ count, rows, length }), {
        inputs: [updates, ids],
        output: before,
      });
    const y = new Float32Array(await run());
    assertNear(y, expected, { tolerance: 1e-6, what: `rows of ${length}` });
    assertEquals(new Float32Array(await run()), y);
  }
});

Deno.test("cacheUpdate writes its rows and nothing else", async () => {
  using gpu = await openGpu();
  const batch = 2, capacity = 7, rows = 3;
  for (
    const [dtype, array] of [["f32", Float32Array], ["bf16", Uint16Array]] as const
  ) {
    for (const length of [8, 6, 5]) {
      for (const offset of [0, 2, 4]) {
        const cache = new array(numbers(batch * capacity * length, (i) => i % 239 + 1));
        const fresh = new array(numbers(batch * rows * length, (i) => 240 + i % 13));
        const expected = cache.slice();
        for (let b = 0; b < batch; b++) {
          const part = fresh.subarray(b * rows * length, (b + 1) * rows * length);
          expected.set(part, (b * capacity + offset) * length);
        }
        const kernel = cacheUpdateKernel({ batch, capacity, rows, length }, dtype);
        const y = await gpu.run(kernel, {
          inputs: [cache, fresh, Int32Array.of(offset)],
          output: cache,
        });
        assertEquals(new array(y).slice(0, expected.length), expected);
      }
    }
  }
});

Deno.test("rope turns pairs both ways", async () => {
  using gpu = await openGpu({ epilogue: "indexed" });
  for (const [depth, tables, inverse] of [[16, 1, false], [10, 2, true]] as const) {
    const batch = 2, positions = 5, heads = 3, half = depth / 2;
    const x = randoms(batch * positions * heads * depth, 1);
    const angles = randoms(tables * positions * half, 2).map((v) => 3 * v);
    const expected = new Float64Array(x.length);
    for (let i = 0; i < x.length / 2; i++) {
      const pair = i % half, line = Math.floor(i / half);
      const low = line * depth + pair, high = low + half;
      const at = Math.floor(line / heads) % (tables * positions) * half + pair;
      const angle = inverse ? -angles[at] : angles[at];
      expected[low] = x[low] * Math.cos(angle) - x[high] * Math.sin(angle);
      expected[high] = x[high] * Math.cos(angle) + x[low] * Math.sin(angle);
    }
    const y = await gpu.run(ropeKernel({ batch, positions, heads, depth, tables, inverse }), {
      inputs: [x, angles.map(Math.cos), angles.map(Math.sin)],
      output: x.length * 4,
    });
    assertNear(new Float32Array(y), expected.map((v, i) => 2 * v + 1 + i % 7), {
      tolerance: 1e-6,
      what: `heads of ${depth}`,
    });
  }
});
