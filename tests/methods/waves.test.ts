import { assert, assertEquals } from "@std/assert";
import { patternValueAtEnd } from "../../lib/methods/site-pattern.ts";
import { waves } from "../../lib/methods/waves.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";

testOnDevices("waves are exact for as many rows as a vocabulary has", async (device) => {
  const size = 128256, frequencies = Int32Array.of(128255, 70001);
  const graph = createGraph();
  const given = input(graph, "frequencies", { shape: [2], dtype: "i32" });
  const { run } = await device.compile(programOf({ ...waves(given, size, { as: "columns" }) }));
  const inputs = { frequencies: tensor(frequencies, { shape: [2] }) };
  const { cosines, sines } = await run(inputs, { read: ["cosines", "sines"] });
  for (const [found, wave] of [[cosines, Math.cos], [sines, Math.sin]] as const) {
    assertEquals(found.shape, [size, 2]);
    const off = (await toFloat32(found)).map((x, i) => {
      const turns = ((i >> 1) * frequencies[i & 1] % size) / size;
      return Math.abs(x - wave(2 * Math.PI * turns));
    });
    assert(off.every((x) => x < 1e-6));
  }
});

Deno.test("patterns of FourierFT and C3A are read as PEFT reads them", () => {
  const paths = ["a.q_proj", "q_proj", "v_proj", "a.v_proj", "a.q_proj_more"];
  const found = (pattern: string) => paths.filter((p) => patternValueAtEnd({ [pattern]: 1 }, p));
  assertEquals(found("q_proj"), ["a.q_proj", "q_proj"]);
  assertEquals(found("(q|v)_proj"), ["a.q_proj", "a.v_proj"]);
  assertEquals(found("q_proj|v_proj"), ["a.q_proj", "v_proj", "a.q_proj_more"]);
});
