/**
 * Every operation, on every device, against 64-bit arithmetic.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { OPERATIONS } from "../../lib/ops/mod.ts";
import { testOnDevices } from "../devices.ts";
import { CASES } from "./cases.ts";
import { checkCase, prepareCase } from "./run-case.ts";

Deno.test("every operation has a case", async () => {
  const used = new Set<string>();
  for (const test of CASES) {
    const { program } = await prepareCase(test, () => "f32");
    for (const node of program.nodes) used.add(node.op);
  }
  assertEquals([...OPERATIONS.keys()].filter((name) => !used.has(name)), []);
});

Deno.test("no two cases have one name", () => {
  const names = CASES.map((c) => c.name);
  assertEquals(names.filter((n, i) => names.indexOf(n) !== i), []);
});

for (const test of CASES) testOnDevices(test.name, (device) => checkCase(test, device));
