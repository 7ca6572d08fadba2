import { assertEquals, assertThrows } from "@std/assert";
import { FileError } from "../../lib/errors.ts";
import { decodeText, parseJsonObject } from "../../lib/io/json.ts";

Deno.test("an object is parsed; anything else is refused by name", () => {
  assertEquals(parseJsonObject(`{"a": [1, {"a": 2}], "b": "\\"a\\": {"}`, "x.json"), {
    a: [1, { a: 2 }],
    b: `"a": {`,
  });
  for (const text of ["[1]", "null", "{", "", "{'a': 1}"]) {
    assertThrows(() => parseJsonObject(text, "x.json"), FileError, "x.json");
  }
});

Deno.test("a key that one object has twice is refused", () => {
  for (const text of [`{"a":1,"b":2,"a":3}`, `{"o":[{"a":1},{"b":{"a":1,"\\u0061":2}}]}`]) {
    const error = assertThrows(() => parseJsonObject(text, "x.json"), FileError, `"a"`);
    assertEquals(error.code, "JSON_DUPLICATE_KEY");
  }
  parseJsonObject(`{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}],"c":"a"}`, "x.json");
});

Deno.test("bytes that are no UTF-8 are refused", () => {
  assertEquals(decodeText(new TextEncoder().encode("é"), "x"), "é");
  assertThrows(() => decodeText(Uint8Array.of(0xc3), "x.json"), FileError, "x.json");
});

Deno.test("JSON that is nested without end is refused before anything walks it", () => {
  const nested = (depth: number) => `{"a":${"[".repeat(depth)}${"]".repeat(depth)},"b":"[[{"}`;
  parseJsonObject(nested(100), "x.json");
  for (const text of [nested(300), nested(1_000_000), '{"a":'.repeat(5000)]) {
    const error = assertThrows(() => parseJsonObject(text, "x.json"), FileError, "levels deep");
    assertEquals(error.code, "JSON_INVALID");
  }
});
