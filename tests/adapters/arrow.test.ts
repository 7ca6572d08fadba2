/**
 * Models that route tokens through LoRAs, against those of the real PEFT.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { type ArrowModelOptions, createArrowModel } from "../../lib/adapters/lora/arrow-model.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { deleteAdapter, setAdapter } from "../../lib/adapters/select.ts";
import { GraftError, UnsupportedError } from "../../lib/errors.ts";
import { generate } from "../../lib/generation/generate.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { camelCase } from "../../lib/methods/config.ts";
import { loraConfig, type LoraFields } from "../../lib/methods/lora/lora-config.ts";
import { toPeftJson } from "../../lib/methods/peft-json.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import { assertLogits, type Expected } from "../golden-case.ts";
import { apart } from "../steps.ts";
import arrow from "../golden/arrow/arrow.json" with { type: "json" };
import { golden, goldenBase } from "./bases.ts";
import { randomized } from "./randomized.ts";

/** PEFT's arguments by our names. */
function ours(fields: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([name, x]) => [camelCase(name), x]));
}

for (const { name, kind, experts, general, routing } of arrow.cases) {
  testOnceOnWebGpu(`routing of the real PEFT: ${name}`, async (device) => {
    const folder = `${golden}arrow/${name}/`, base = await goldenBase(kind, device);
    const paths = (prefix: string, n: number) =>
      Array.from({ length: n }, (_, i) => `${folder}${prefix}_${i}`);
    const model = await createArrowModel(base, paths("task", experts), {
      arrowConfig: ours(routing) as ArrowModelOptions["arrowConfig"],
      generalAdapterPaths: paths("gks", general),
    });
    const { tensors } = await openSafetensors(`${folder}expected.safetensors`);
    const expected: Expected = {
      record: { seed: 0 },
      names: () => tensors.keys(),
      has: (key: string) => tensors.has(key),
      get: (key: string) => tensors.get(key)!,
    };
    await assertLogits(model, expected, {
      right: "arrow.logits",
      left: "left.arrow.logits",
      what: name,
    });
    const router = model.adapters.get("arrow_router")!.config;
    const json = JSON.parse(toPeftJson(router));
    const written = JSON.parse(
      await Deno.readTextFile(`${folder}arrow_router/adapter_config.json`),
    );
    assertEquals(json.arrow_config, written.arrow_config);
    assertEquals([json.r, json.target_modules.sort()], [written.r, written.target_modules.sort()]);
    assertThrows(() => mergeAndUnload(model), UnsupportedError);

    // Another expert counts at once.
    const more = await loadAdapter(model, `${folder}extra`, { adapterName: "extra" });
    await assertLogits(more, expected, { right: "added.logits", what: "one more" });
    await assertLogits(deleteAdapter(more, "extra"), expected, {
      right: "arrow.logits",
      what: "one less",
    });

    // The experts themselves are as they were, and the strength of the router is that of all.
    const inputs = { inputIds: expected.get("in.input_ids") };
    const alone = await forward(setAdapter(model, "task_0"), inputs);
    const only = await loadAdapter(base, `${folder}task_0`);
    assertEquals(await alone.logits.data(), await (await forward(only, inputs)).logits.data());
    const { value } = await withAdapterScale(model, 0, (off) => forward(off, inputs));
    const plain = await toFloat32((await forward(base, inputs)).logits);
    assert(apart(await toFloat32(value.logits), plain) < 1e-6);

    const ids = [5, 17, 53, 2];
    const { tokenIds } = await generate(model, ids, { maxNewTokens: 3, eosTokenId: [] });
    for (const next of tokenIds) {
      const { logits } = await forward(model, { inputIds: [ids] });
      const values = (await toFloat32(logits)).slice(-logits.shape[2]);
      assertEquals(next, values.indexOf(Math.max(...values)));
      ids.push(next);
    }
  });
}

Deno.test("what PEFT refuses to route is refused", async () => {
  const base = await goldenBase("llama");
  for (const [name, { adapters, routing }] of Object.entries(arrow.refused)) {
    const run = async () => {
      const sources = await Promise.all(adapters.map(async (fields, i) => {
        const config = loraConfig({ taskType: "CAUSAL_LM", ...ours(fields) as LoraFields });
        const model = await randomized(getPeftModel(base, config, { seed: i }));
        return { config, tensors: getAdapterStateDict(model) };
      }));
      const arrowConfig = ours(routing) as ArrowModelOptions["arrowConfig"];
      const model = await createArrowModel(base, sources, { arrowConfig });
      if (name === "merge") mergeAndUnload(model);
      await forward(model, { inputIds: [[1, 2, 3]] });
    };
    await assertRejects(run, GraftError, undefined, name);
  }
});
