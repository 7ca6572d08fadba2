import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import type { ForwardInputs } from "../../lib/adapters/batch.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { llama } from "../../lib/architectures/llama.ts";
import { ropeTables } from "../../lib/architectures/rope.ts";
import { ropeConfig } from "../../lib/architectures/rope-config.ts";
import { ropeFrequencies } from "../../lib/architectures/rope-frequencies.ts";
import { openDevice } from "../../lib/device/open.ts";
import { ConfigError } from "../../lib/errors.ts";
import { openDecoder } from "../../lib/generation/decoder.ts";
import { maxPositionsOf } from "../../lib/generation/prompt.ts";
import { argmax } from "../../lib/generation/sampling.ts";
import { createModelGraph, structureOf } from "../../lib/model/model-graph.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import golden from "./rope.golden.json" with { type: "json" };

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

/** How many positions each kind knows, of 12 and an original length of 6. */
const LIMITS: Readonly<Record<string, number>> = {
  "linear": 30,
  "linear in the newer spelling": 30,
  "dynamic": 24,
  "dynamic, whose original length does not count": 24,
  "yarn": 48,
  "yarn from an original length": 24,
  "yarn from an original length outside": 24,
  "yarn with all settings": 24,
  "llama3": 24,
  "llama3 without an original length": 48,
  "longrope from an original length outside": 18,
  "longrope without an original length": 36,
};

for (const { name, config, tokens, ...rows } of golden) {
  Deno.test(`positions beyond the trained length are turned as in transformers: ${name}`, async () => {
    using device = await openDevice("cpu");
    const { shapes } = structureOf({ architecture: llama, config, taskType: "CAUSAL_LM" });
    const parameters = new Map([...shapes].map(([key, shape]) => {
      const seed = [...key].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
      const size = shape.reduce((n, d) => n * d, 1);
      const values = Float32Array.from({ length: size }, (_, i) => Math.sin(0.7 * i * i + seed));
      return [key, tensor(values, { shape })];
    }));
    const model = createModelGraph(llama, { config, parameters, device });
    assertEquals(maxPositionsOf(model), LIMITS[name] ?? 12);
    const ids = Array.from({ length: 23 }, (_, i) => (5 * i * i + 3 * i) % 12 + 1);
    const same = (found: Float32Array, key: keyof typeof rows) =>
      rows[key].forEach((x, i) => assertAlmostEquals(found.slice(-13)[i], x, 3e-5, `${key} ${i}`));
    const run = async (of: ForwardInputs) =>
      await (await forward(model, of)).logits.data() as Float32Array;
    same(await run({ inputIds: [ids.slice(0, 4)] }), "short");
    same(await run({ inputIds: [ids] }), "long");
    const positionIds = [ids.map((_, i) => i < 10 ? i : i - 10)];
    same(await run({ inputIds: [ids], positionIds }), "placed");
    using decoder = await openDecoder(model, [ids.slice(0, 4)]);
    const written = [argmax(decoder.logits)];
    while (written.length < tokens.length) {
      await decoder.step(Int32Array.of(written.at(-1)!));
      written.push(argmax(decoder.logits));
    }
    assertEquals(written, tokens);
    same(decoder.logits, "written");
  });
}
