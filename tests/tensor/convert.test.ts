import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import { castTensor, float32ToBits, toFloat32 } from "../../lib/tensor/convert.ts";
import { type DType, viewAs } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";

const coded = (codes: ArrayLike<number>, dtype: DType): Tensor =>
  tensor(viewAs(Uint8Array.from(codes), dtype), { dtype });
const halves = (codes: number[], dtype: DType): Tensor => tensor(new Uint16Array(codes), { dtype });

Deno.test("16-bit floats have the values of their bits", async () => {
  const f16 = halves([0x3c00, 0xc500, 0x0001, 0x8000, 0x7bff, 0x7c00, 0x7e00], "f16");
  assertEquals([...await toFloat32(f16)], [1, -5, 2 ** -24, -0, 65504, Infinity, NaN]);
  const bf16 = halves([0x3f80, 0xc0a0, 0x0001, 0x8000, 0x7f7f, 0xff80, 0x7fc0], "bf16");
  const largest = 2 ** 127 * (2 - 2 ** -7);
  assertEquals([...await toFloat32(bf16)], [1, -5, 2 ** -133, -0, largest, -Infinity, NaN]);
});

Deno.test("8-bit floats have the values of their bits", async () => {
  const values = async (codes: number[], dtype: DType) => [...await toFloat32(coded(codes, dtype))];
  assertEquals(
    await values([0x38, 0xb9, 0x01, 0x7e, 0x7f, 0x80], "f8_e4m3"),
    [1, -1.125, 2 ** -9, 448, NaN, -0],
  );
  assertEquals(
    await values([0x3c, 0xbd, 0x01, 0x7b, 0x7c, 0xfc, 0x7d], "f8_e5m2"),
    [1, -1.25, 2 ** -16, 57344, Infinity, -Infinity, NaN],
  );
  assertEquals(await values([0x40, 0x01, 0x7f, 0x80], "f8_e4m3fnuz"), [1, 2 ** -10, 240, NaN]);
  assertEquals(await values([0x40, 0x01, 0x7f, 0x80], "f8_e5m2fnuz"), [1, 2 ** -17, 57344, NaN]);
  assertEquals(await values([127, 130, 0, 255], "f8_e8m0"), [1, 8, Math.fround(2 ** -127), NaN]);
});

Deno.test("4-bit floats lie in pairs, the first in the low half", async () => {
  const t = tensor(new Uint8Array([0x21, 0xf7, 0x0b]), { dtype: "f4", shape: [5] });
  assertEquals([...await toFloat32(t)], [0.5, 1, 6, -6, -1.5]);
});

Deno.test("whole numbers and wide floats become 32-bit floats", async () => {
  assertEquals([...await toFloat32(tensor(new Int8Array([-128, 127])))], [-128, 127]);
  assertEquals([...await toFloat32(tensor(BigInt64Array.of(-(2n ** 40n), 3n)))], [-(2 ** 40), 3]);
  assertEquals([...await toFloat32(tensor(Float64Array.of(0.1)))], [Math.fround(0.1)]);
  assertEquals([...await toFloat32(coded([0, 1], "bool"))], [0, 1]);
});

Deno.test("an f32 tensor gives its own array", async () => {
  const data = Float32Array.of(1.5, -2);
  assertStrictEquals(await toFloat32(tensor(data)), data);
});

Deno.test("complex numbers have no value as a float", async () => {
  const c64 = tensor(Float32Array.of(1, 2), { dtype: "c64", shape: [1] });
  await assertRejects(() => toFloat32(c64), UnsupportedError, "c64");
});

Deno.test("every code of a small float survives the way to f32 and back", async () => {
  for (const [dtype, count] of [["f16", 65536], ["bf16", 65536]] as const) {
    const codes = Uint16Array.from({ length: count }, (_, i) => i);
    const values = await toFloat32(tensor(codes, { dtype }));
    const back = float32ToBits(values, dtype);
    for (let i = 0; i < count; i++) {
      assert(Number.isNaN(values[i]) || back[i] === codes[i], `${dtype} ${i}: ${back[i]}`);
    }
  }
  for (const dtype of ["f8_e4m3", "f8_e5m2"] as const) {
    const codes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const values = await toFloat32(tensor(codes, { dtype }));
    const back = float32ToBits(values, dtype);
    for (let i = 0; i < 256; i++) {
      assert(Number.isNaN(values[i]) || back[i] === codes[i], `${dtype} ${i}: ${back[i]}`);
    }
  }
});

Deno.test("rounding is to the nearest, ties to even", () => {
  const bits = (
    dtype: "f16" | "bf16" | "f8_e4m3" | "f8_e5m2",
    ...values: number[]
  ) => [...float32ToBits(Float32Array.from(values), dtype)];
  const u = 2 ** -10;
  // Ties go to the even code below and above; a little more goes up.
  assertEquals(
    bits(
      "f16",
      1 + u / 2,
      1 + 3 * u / 2,
      1 + u / 2 + 2 ** -20,
      2 ** -25,
      3 * 2 ** -25,
      65519,
      65520,
    ),
    [0x3c00, 0x3c02, 0x3c01, 0, 2, 0x7bff, 0x7c00],
  );
  const v = 2 ** -7;
  assertEquals(
    bits("bf16", 1 + v / 2, 1 + 3 * v / 2, -1 - v / 2 - 2 ** -20, 3.4e38, NaN, -Infinity),
    [0x3f80, 0x3f82, 0xbf81, 0x7f80, 0x7fc0, 0xff80],
  );
  assertEquals(
    bits("f8_e4m3", 1 + 1 / 16, 1 + 3 / 16, -(2 ** -10), 3 * 2 ** -10, 1000, -Infinity, NaN),
    [0x38, 0x3a, 0x80, 2, 0x7e, 0xfe, 0x7f],
  );
  assertEquals(
    bits("f8_e5m2", 1 + 1 / 8, 1 + 3 / 8, 61439, 61440, -Infinity, NaN),
    [0x3c, 0x3e, 0x7b, 0x7c, 0xfc, 0x7f],
  );
});

Deno.test("a NaN whose high bits are zero stays a NaN in bf16", () => {
  const nan = new Float32Array(new Uint32Array([0x7f800001, 0xff80ffff]).buffer);
  assertEquals([...float32ToBits(nan, "bf16")], [0x7fc0, 0xffc0]);
});

Deno.test("castTensor converts each time data is asked for, and leaves the source alone", async () => {
  let reads = 0;
  const source: Tensor = {
    dtype: "f32",
    shape: [3],
    where: "file",
    data: () => (reads++, Promise.resolve(Float32Array.of(1.5, -2.75, 3))),
  };
  const half = castTensor(source, "f16");
  assertEquals([half.dtype, half.shape, half.where, reads], ["f16", [3], "file", 0]);
  assertEquals([...await half.data()], [0x3e00, 0xc180, 0x4200]);
  assertEquals([...await castTensor(half, "i32").data()], [1, -2, 3]);
  assertEquals(reads, 2);
  assertStrictEquals(castTensor(source, "f32"), source);
});

Deno.test("casts between wide types keep what 32-bit floats would lose", async () => {
  const big = tensor(BigInt64Array.of(2n ** 53n + 1n, -1n));
  assertEquals(
    await castTensor(tensor(Float64Array.of(2 ** 40 + 1)), "i64").data(),
    BigInt64Array.of(2n ** 40n + 1n),
  );
  assertEquals(await castTensor(big, "f64").data(), Float64Array.of(2 ** 53, -1));
  assertEquals(
    await castTensor(tensor(Int32Array.of(16777217)), "f64").data(),
    Float64Array.of(16777217),
  );
  assertEquals(
    await castTensor(tensor(Int32Array.of(7, 0, -3)), "bool").data(),
    Uint8Array.of(1, 0, 1),
  );
});

Deno.test("a value that an integer type cannot hold is an error that says which", async () => {
  for (
    const [value, dtype] of [[300, "u8"], [-1, "u32"], [NaN, "i32"], [2 ** 31, "i32"]] as const
  ) {
    const cast = castTensor(tensor([0, value], { dtype: "f64" }), dtype);
    await assertRejects(() => cast.data(), ValueError, `Element 1 is ${value}`);
  }
  const wide = castTensor(tensor(BigInt64Array.of(-5n)), "u64");
  await assertRejects(() => wide.data(), ValueError, "-5");
});

Deno.test("types that cannot be written are refused at once", () => {
  for (const dtype of ["q4_0", "c64", "f8_e8m0"] as const) {
    assertThrows(() => castTensor(tensor([1]), dtype), UnsupportedError, dtype);
  }
});
