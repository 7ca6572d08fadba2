import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { FileError, ShapeError, ValueError } from "../../lib/errors.ts";
import {
  encodeSafetensors,
  openSafetensors,
  readSafetensorsHeader,
  type Tensor,
  tensor,
  writeSafetensors,
} from "../../lib/io/safetensors.ts";
import { byteLength, type ScalarType, viewAs } from "../../lib/tensor/dtype.ts";
import { inFolder, namesIn } from "./folder.ts";

/** A file with any header. */
function file(header: unknown, data = new Uint8Array(), length?: bigint): Uint8Array {
  const json = typeof header === "string" ? header : JSON.stringify(header);
  const text = header instanceof Uint8Array ? header : new TextEncoder().encode(json);
  const out = new Uint8Array(8 + text.length + data.length);
  new DataView(out.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  out.set(text, 8);
  out.set(data, 8 + text.length);
  return out;
}

const entry = (begin: number, end: number, shape = [end - begin], dtype: unknown = "U8") => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

async function refused(bytes: Uint8Array, code: string, message: string): Promise<void> {
  const error = await assertRejects(() => openSafetensors(bytes), FileError, message);
  assertEquals(error.code, code, error.message);
}

Deno.test("reads names, types, shapes, metadata and values", async () => {
  const bytes = file(
    {
      __metadata__: { format: "pt", note: "é" },
      b: entry(0, 4, [2], "I16"),
      "a.weight": entry(4, 12, [1, 2], "F32"),
      empty: entry(12, 12, [0, 3], "F16"),
      scalar: entry(12, 13, [], "BOOL"),
    },
    new Uint8Array([
      ...new Uint8Array(Int16Array.of(-2, 300).buffer),
      0,
      0,
      192,
      63,
      0,
      0,
      0,
      192,
      1,
    ]),
  );
  const { tensors, metadata } = await openSafetensors(bytes);
  assertEquals(metadata, { format: "pt", note: "é" });
  assertEquals([...tensors.keys()], ["b", "a.weight", "empty", "scalar"]);
  assertEquals(await tensors.get("b")!.data(), Int16Array.of(-2, 300));
  const a = tensors.get("a.weight")!;
  assertEquals([a.dtype, a.shape, a.where], ["f32", [1, 2], "file"]);
  assertEquals(await a.data(), Float32Array.of(1.5, -2));
  assertEquals([tensors.get("empty")!.shape, tensors.get("scalar")!.shape], [[0, 3], []]);
  assertEquals(await tensors.get("scalar")!.data(), Uint8Array.of(1));
});

Deno.test("says where each tensor lies", async () => {
  const bytes = file({ x: entry(0, 6, [3], "BF16") }, new Uint8Array(6));
  const { entries, dataOffset } = await readSafetensorsHeader(bytes);
  assertEquals(dataOffset, bytes.length - 6);
  assertEquals(entries.get("x"), { dtype: "bf16", shape: [3], offset: dataOffset, length: 6 });
});

Deno.test("writes what Python's safetensors 0.8 writes, byte for byte", async () => {
  // save({"b": f32 [[0.5, 1, -2]], "a": i64 [7], "h": f16 [1.5], "ü": u8 [1, 2], "c": f32 [4]}, {"format": "pt"})
  const expected = `{"__metadata__":{"format":"pt"},` +
    `"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},` +
    `"b":{"dtype":"F32","shape":[1,3],"data_offsets":[8,20]},` +
    `"c":{"dtype":"F32","shape":[1],"data_offsets":[20,24]},` +
    `"h":{"dtype":"F16","shape":[1],"data_offsets":[24,26]},` +
    `"ü":{"dtype":"U8","shape":[2],"data_offsets":[26,28]}}`;
  const bytes = await encodeSafetensors({
    "ü": tensor(Uint8Array.of(1, 2)),
    c: tensor(Float32Array.of(4)),
    b: tensor([[0.5, 1, -2]]),
    h: tensor(Uint16Array.of(0x3e00), { dtype: "f16" }),
    a: tensor(BigInt64Array.of(7n)),
  }, { metadata: { format: "pt" } });
  const header = new TextEncoder().encode(expected);
  const padded = Math.ceil(header.length / 8) * 8;
  assertEquals(new DataView(bytes.buffer).getBigUint64(0, true), BigInt(padded));
  assertEquals(
    new TextDecoder().decode(bytes.subarray(8, 8 + padded)),
    expected.padEnd(expected.length + padded - header.length),
  );
  assertEquals(
    [...bytes.subarray(8 + padded)],
    [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 63, 0, 0, 128, 63, 0, 0, 0, 192, 0, 0, 128, 64, 0, 62, 1, 2],
  );
});

Deno.test("names are ordered by their UTF-8, and those that look like numbers are not moved", async () => {
  const one = tensor(Uint8Array.of(1));
  const bytes = await encodeSafetensors({
    "10": one,
    "\u{1f600}": one,
    "\ue000": one,
    "9": one,
    a: one,
  });
  const { tensors } = await openSafetensors(bytes);
  assertEquals([...tensors.keys()], ["10", "9", "a", "\ue000", "\u{1f600}"]);
});

const TYPES: readonly ScalarType[] = [
  ..."bool f4 f6_e2m3 f6_e3m2 u8 i8 f8_e5m2 f8_e4m3 f8_e8m0 f8_e4m3fnuz f8_e5m2fnuz".split(" "),
  ..."i16 u16 f16 bf16 i32 u32 f32 c64 f64 i64 u64".split(" "),
] as ScalarType[];

Deno.test("every type survives writing and reading", async () => {
  const tensors = new Map<string, Tensor>();
  for (const [i, dtype] of TYPES.entries()) {
    const bytes = Uint8Array.from({ length: byteLength(dtype, [2, 4]) }, (_, j) => i * 7 + j + 1);
    tensors.set(dtype, tensor(viewAs(bytes, dtype), { dtype, shape: [2, 4] }));
  }
  const file = await openSafetensors(await encodeSafetensors(tensors));
  assertEquals([...file.tensors.keys()], [...TYPES].reverse());
  for (const [name, t] of file.tensors) {
    assertEquals([t.dtype, t.shape], [name, [2, 4]]);
    assertEquals(await t.data(), await tensors.get(name)!.data());
  }
});

Deno.test("a file is read lazily and written atomically", () =>
  inFolder(async (folder) => {
    const path = join(folder, "model.safetensors");
    await writeSafetensors(path, { x: tensor([[1.5, -2], [0.25, 4]]) });
    const { tensors } = await openSafetensors(new URL(`file://${path}`));
    assertEquals(await tensors.get("x")!.data(), Float32Array.of(1.5, -2, 0.25, 4));
    // A file can be written from its own tensors.
    await writeSafetensors(path, new Map([...tensors, ["y", tensor([9])]]));
    const again = await openSafetensors(path);
    assertEquals(await again.tensors.get("x")!.data(), Float32Array.of(1.5, -2, 0.25, 4));
    const failing: Tensor = { ...tensor([1]), data: () => Promise.reject(new Error("lost")) };
    await assertRejects(() => writeSafetensors(path, { a: tensor([1]), failing }), Error, "lost");
    assertEquals(namesIn(folder), ["model.safetensors"]);
    assertEquals([...(await openSafetensors(path)).tensors.keys()], ["x", "y"]);
  }));

Deno.test("what the format cannot hold is refused before anything is written", async () => {
  const blocks = tensor(new Uint8Array(18), { dtype: "q4_0", shape: [1, 32] });
  await assertRejects(() => encodeSafetensors({ blocks }), ValueError, "q4_0");
  await assertRejects(() => encodeSafetensors({ __metadata__: tensor([1]) }), ValueError);
  await assertRejects(() => encodeSafetensors({ "\ud800": tensor([1]) }), ValueError);
  const short: Tensor = { ...tensor([1, 2]), shape: [3] };
  await assertRejects(() => encodeSafetensors({ short }), ShapeError, "12 bytes");
});

Deno.test("truncated files are refused", async () => {
  const whole = await encodeSafetensors({ x: tensor([1, 2, 3]), y: tensor([4]) });
  await refused(whole.subarray(0, 5), "SAFETENSORS_TRUNCATED", "5 bytes");
  await refused(whole.subarray(0, 20), "SAFETENSORS_TRUNCATED", "header");
  await refused(whole.subarray(0, whole.length - 1), "SAFETENSORS_TRUNCATED", `"y"`);
});

Deno.test("an oversized header is refused without reading it", async () => {
  await refused(file({}, undefined, 100_000_001n), "SAFETENSORS_HEADER_SIZE", "100000001");
  await refused(file({}, undefined, 2n ** 63n), "SAFETENSORS_HEADER_SIZE", "header");
  await refused(file({}, undefined, 3n), "SAFETENSORS_TRUNCATED", "3 bytes");
});

Deno.test("a header that is not a JSON object in UTF-8 is refused", async () => {
  await refused(file(""), "SAFETENSORS_HEADER", `"{"`);
  await refused(file("[]"), "SAFETENSORS_HEADER", `"{"`);
  await refused(file(` {}`), "SAFETENSORS_HEADER", `"{"`);
  await refused(file(`{"a":}`), "SAFETENSORS_HEADER", "JSON");
  await refused(file(Uint8Array.of(0x7b, 0xff, 0x7d)), "SAFETENSORS_HEADER", "UTF-8");
  await refused(file({ a: 1 }), "SAFETENSORS_HEADER", "object");
  await refused(file({ a: { dtype: "U8", shape: [] } }), "SAFETENSORS_HEADER", "data_offsets");
  await refused(file({ __metadata__: { a: 1 } }), "SAFETENSORS_HEADER", "__metadata__");
  await refused(
    file(`{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}`, new Uint8Array(1)),
    "SAFETENSORS_HEADER",
    "whole",
  );
});

Deno.test("duplicate keys are refused, however they are spelled", async () => {
  const one = JSON.stringify(entry(0, 1)), data = new Uint8Array(1);
  await refused(file(`{"a":${one},"a":${one}}`, data), "SAFETENSORS_DUPLICATE_KEY", `"a"`);
  await refused(file(`{"a":${one},"\\u0061":${one}}`, data), "SAFETENSORS_DUPLICATE_KEY", `"a"`);
  await refused(
    file(`{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, data),
    "SAFETENSORS_DUPLICATE_KEY",
    `"dtype"`,
  );
  // The same name in different objects, or as a value, is none.
  const fine = `{"__metadata__":{"a":"a","b":"\\"a\\":"},"a":${one}}`;
  assertEquals((await openSafetensors(file(fine, data))).tensors.size, 1);
});

Deno.test("overlapping, holed and impossible offsets are refused", async () => {
  const data = new Uint8Array(8);
  await refused(
    file({ a: entry(0, 5), b: entry(4, 8) }, data),
    "SAFETENSORS_OVERLAP",
    `"a" and "b"`,
  );
  await refused(file({ a: entry(0, 8), b: entry(0, 8) }, data), "SAFETENSORS_OVERLAP", "overlap");
  await refused(file({ a: entry(0, 3), b: entry(4, 8) }, data), "SAFETENSORS_HOLE", "1 bytes");
  await refused(file({ a: entry(1, 8) }, data), "SAFETENSORS_HOLE", "between the header");
  await refused(file({ a: entry(0, 7) }, data), "SAFETENSORS_HOLE", "after");
  await refused(file({ a: entry(0, 9) }, data), "SAFETENSORS_TRUNCATED", `"a"`);
  for (const offsets of [[8, 0], [-1, 8], [0], [0, 8, 8], [0, 2 ** 60], ["0", 8], [0, null]]) {
    await refused(
      file({ a: { dtype: "U8", shape: [8], data_offsets: offsets } }, data),
      "SAFETENSORS_HEADER",
      "data_offsets",
    );
  }
});

Deno.test("types, shapes and sizes that are wrong are refused", async () => {
  const data = new Uint8Array(8);
  await refused(
    file({ a: entry(0, 8, [8], "Q4") }, data),
    "SAFETENSORS_DTYPE",
    `"Q4"; known are BOOL`,
  );
  await refused(file({ a: entry(0, 8, [8], 5) }, data), "SAFETENSORS_HEADER", "dtype");
  for (
    const shape of [[-8], [2 ** 53], [2 ** 52, 2 ** 52, 0], ["8"], [null], [[8]]] as number[][]
  ) {
    await refused(file({ a: entry(0, 8, shape) }, data), "SAFETENSORS_SHAPE", `"a"`);
  }
  const axes = new Array<number>(100_000).fill(1);
  await refused(file({ a: entry(0, 8, axes) }, data), "SAFETENSORS_SHAPE", "100000 axes");
  await refused(file({ a: entry(0, 8, [3], "F32") }, data), "SAFETENSORS_SIZE", "has 12");
  await refused(file({ a: entry(0, 8, [2, 2], "I64") }, data), "SAFETENSORS_SIZE", "has 32");
  await refused(file({ a: entry(0, 8, [15], "F4") }, data), "SAFETENSORS_SIZE", "whole bytes");
});

Deno.test("an empty file of tensors is a file", async () => {
  assertEquals((await openSafetensors(file({}))).tensors.size, 0);
  assertEquals((await openSafetensors(await encodeSafetensors({}))).tensors.size, 0);
});

Deno.test("a name that objects treat specially is a name like any other", async () => {
  const bytes = await encodeSafetensors(
    new Map([["__proto__", tensor([3])], ["constructor", tensor([4])]]),
  );
  const { tensors } = await openSafetensors(bytes);
  assert(tensors.has("__proto__"));
  assertEquals(await tensors.get("constructor")!.data(), Float32Array.of(4));
});
