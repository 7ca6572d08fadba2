import { assert, assertEquals, assertRejects } from "@std/assert";
import { ShapeError } from "../../lib/errors.ts";
import { blockLayout, repackBlocks } from "../../lib/tensor/blocks.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import type { BlockType } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import golden from "./blocks.golden.json" with { type: "json" };

const bytesOf = (base64: string) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const types = Object.keys(golden) as (keyof typeof golden & BlockType)[];

function load(type: typeof types[number]): { blocks: Tensor; values: Float32Array } {
  const values = new Float32Array(bytesOf(golden[type].values).buffer);
  const shape = [3, values.length / 3];
  return { blocks: tensor(bytesOf(golden[type].blocks), { dtype: type, shape }), values };
}

for (const type of types) {
  Deno.test(`${type} has the values that gguf-py gives, to the bit`, async () => {
    const { blocks, values } = load(type);
    assertEquals(await toFloat32(blocks), values);
    // Many blocks are unpacked in several goes.
    const bytes = await blocks.data() as Uint8Array, times = Math.ceil(2e5 / bytes.length);
    const many = new Uint8Array(bytes.length * times);
    for (let i = 0; i < times; i++) many.set(bytes, i * bytes.length);
    const shape = [3 * times, values.length / 3];
    const all = await toFloat32(tensor(many, { dtype: type, shape }));
    for (let i = 0; i < times; i++) {
      assertEquals(all.subarray(i * values.length, (i + 1) * values.length), values);
    }
  });

  Deno.test(`${type} repacked means the same values`, async () => {
    const { blocks, values } = load(type);
    const w = await repackBlocks(blocks);
    assertEquals(w.shape, [3, values.length / 3]);
    assertEquals(w.packed.length, values.length * w.bits / 8);
    assertEquals(w.scales.length, values.length / w.block);
    assertEquals(w.offsets !== undefined, blockLayout(type).offsets);
    assertEquals(w.zeroPoint, w.bits === 4 ? 8 : 128);
    for (let i = 0; i < values.length; i++) {
      const q = w.bits === 8 ? w.packed[i] : (w.packed[i >> 1] >> (i % 2 * 4)) & 15;
      const block = Math.floor(i / w.block);
      const offset = w.offsets?.[block] ?? 0;
      const value = Math.fround((q - w.zeroPoint) * w.scales[block]) + offset;
      // The offset was rounded once; without one nothing may differ.
      const allowed = Math.abs(offset) * 2 ** -24 + Math.abs(values[i]) * 2 ** -24;
      assert(
        offset ? Math.abs(value - values[i]) <= allowed * 2 : value === values[i],
        `${type} element ${i}: ${value}, not ${values[i]}`,
      );
    }
  });
}

Deno.test("4-bit elements lie in pairs, the first in the low half", async () => {
  // Element i is i - 8 for the first 16, and 7 - i for the others; GGUF pairs element i with element i + 16.
  const block = new Uint8Array(18);
  new DataView(block.buffer).setFloat16(0, 1, true);
  for (let i = 0; i < 16; i++) block[2 + i] = i | (15 - i) << 4;
  const w = await repackBlocks(tensor(block, { dtype: "q4_0", shape: [1, 32] }));
  assertEquals([...w.packed.subarray(0, 3)], [0x10, 0x32, 0x54]);
  assertEquals([...w.packed.subarray(8, 11)], [0xef, 0xcd, 0xab]);
  assertEquals([...w.scales], [1]);
});

Deno.test("leading dimensions are rows; no rows are no blocks", async () => {
  const blocks = tensor(new Uint8Array(6 * 34), { dtype: "q8_0", shape: [2, 3, 32] });
  assertEquals((await repackBlocks(blocks)).shape, [6, 32]);
  const none = tensor(new Uint8Array(0), { dtype: "q8_0", shape: [0, 32] });
  assertEquals((await repackBlocks(none)).shape, [0, 32]);
});

Deno.test("what is not in whole blocks cannot be repacked", async () => {
  const floats = tensor(new Float32Array(32), { shape: [1, 32] });
  await assertRejects(() => repackBlocks(floats), ShapeError, "f32");
  const half: Tensor = {
    dtype: "q8_0",
    shape: [2, 16],
    where: "host",
    data: () => Promise.resolve(new Uint8Array(34)),
  };
  await assertRejects(() => repackBlocks(half), ShapeError, "[2,16]");
});
