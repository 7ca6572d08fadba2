import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { ropeConfig, ropeFrequencies, ropeTables } from "../../lib/architectures/rope.ts";
import { ConfigError } from "../../lib/errors.ts";

Deno.test("the older and the newer spelling of a config mean the same", () => {
  const old = ropeConfig({
    rope_theta: 5000,
    rope_scaling: { type: "linear", factor: 2 },
    max_position_embeddings: 64,
  }, 8);
  const now = ropeConfig({
    rope_parameters: { rope_type: "linear", factor: 2, rope_theta: 5000 },
    max_position_embeddings: 64,
  }, 8);
  assertEquals(ropeFrequencies(old, 10), ropeFrequencies(now, 10));
  assertAlmostEquals(ropeFrequencies(now, 10).frequencies[1], 5000 ** -0.25 / 2, 1e-15);
});

Deno.test("dynamic scaling begins beyond the trained length", () => {
  const rope = ropeConfig({
    rope_scaling: { rope_type: "dynamic", factor: 4 },
    max_position_embeddings: 32,
  }, 8);
  assertEquals(ropeFrequencies(rope, 20), ropeFrequencies(rope, 32));
  assertEquals(
    ropeFrequencies(rope, 33).frequencies[3] < ropeFrequencies(rope, 32).frequencies[3],
    true,
  );
});

Deno.test("tables rotate by position times frequency", async () => {
  const rope = ropeConfig({ rope_theta: 100 }, 4);
  const { "rope.cos": cos, "rope.sin": sin } = ropeTables(rope, {
    positions: Int32Array.of(0, 3, 5, 1),
    shape: [2, 2],
    length: 2,
  });
  assertEquals(cos.shape, [2, 2, 2]);
  assertAlmostEquals((await cos.data())[3] as number, Math.cos(0.3), 1e-7);
  assertAlmostEquals((await sin.data())[4] as number, Math.sin(5), 1e-7);
});

Deno.test("missing numbers and unknown kinds are errors that name them", () => {
  const broken = ropeConfig({ rope_scaling: { rope_type: "llama3", factor: 8 } }, 8);
  assertThrows(() => ropeFrequencies(broken, 8), ConfigError, '"low_freq_factor"');
  const unknown = ropeConfig({ rope_scaling: { rope_type: "spiral" } }, 8);
  assertThrows(() => ropeFrequencies(unknown, 8), ConfigError, "yarn");
});
