/**
 * Beams against those of transformers; see beams.golden.py.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { ValueError } from "../../lib/errors.ts";
import { generate, generateStream, type Generation } from "../../lib/generation/generate.ts";
import type { GenerateOptions } from "../../lib/generation/generate-options.ts";
import { tinyModel } from "../../lib/io/tiny-model.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import { testDevice, testOnceOnWebGpu } from "../devices.ts";
import found from "./beams.golden.json" with { type: "json" };

const { prompts, maxNewTokens } = found;
const names = [...new Set(found.cases.map(({ name }) => name))];

for (const name of names) {
  const cases = found.cases.filter((one) => one.name === name);
  testOnceOnWebGpu(`${name}: beams are those of transformers`, async (device) => {
    const [{ kind, adapter }] = cases;
    const base = await goldenBase(kind, device);
    const model: AnyModel = adapter ? await loadAdapter(base, golden + adapter) : base;
    for (const { settings, eos, results } of cases) {
      const options = { ...settings, maxNewTokens, eosTokenId: eos } as GenerateOptions;
      const texts = await generate(model, prompts, options);
      texts.forEach((text, row) => {
        const all: readonly Generation[] = [text, ...text.alternatives ?? []];
        const what = `${JSON.stringify(settings)}, ends ${eos}, row ${row}`;
        assertEquals(
          all.map(({ tokenIds }) => tokenIds),
          results[row].map((r) => r.tokenIds),
          what,
        );
        all.forEach(({ score, tokenIds, finishReason }, i) => {
          const want = results[row][i].score;
          assert(
            want === null || Math.abs(score! - want) < 1e-5 * Math.max(1, Math.abs(want)),
            what,
          );
          assertEquals(finishReason === "eos", eos.includes(tokenIds[tokenIds.length - 1]));
        });
      });
    }
  });
}

Deno.test({
  name: "beams: a cache that grows, adapters by row, and what cannot be",
  sanitizeResources: false,
  async fn() {
    const device = await testDevice("cpu");
    const model = await tinyModel({ device });
    const options = { numBeams: 3, maxNewTokens: 70, eosTokenId: [] };
    const [long] = await generate(model, [[5, 6, 7], [8]], options);
    const alone = await generate(model, [5, 6, 7], options);
    assertEquals(long.tokenIds, alone.tokenIds);
    assertEquals(long.tokenIds.length, 70);
    const refused: readonly (readonly [GenerateOptions, string])[] = [
      [{ numBeams: 2, temperature: 0.5 }, "temperature means nothing to several beams"],
      [{ numBeams: 2, stop: "x" }, "stop means nothing"],
      [{ numBeams: 2, numReturnSequences: 3 }, "cannot give 3 sequences"],
      [{ lengthPenalty: 2 }, "without several beams"],
      [{ numBeams: 0 }, "above 0"],
    ];
    for (const [options, part] of refused) {
      await assertRejects(() => generate(model, [5], options), ValueError, part);
    }
    const stream = generateStream(model, [5], { numBeams: 2 });
    await assertRejects(() => stream.next(), ValueError, "generateStream");
  },
});
