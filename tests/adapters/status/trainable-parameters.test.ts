import { assertEquals, assertThrows } from "@std/assert";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../../lib/adapters/leaves.ts";
import { partsOfKind } from "../../../lib/adapters/parts.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import {
  formatCounts,
  getNbTrainableParameters,
  printTrainableParameters,
} from "../../../lib/adapters/status/trainable-parameters.ts";
import { ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { sizeOf } from "../../../lib/tensor/dtype.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";
import { golden, goldenBase, peftLora } from "../bases.ts";
import { buildCase, lines, statusCases } from "./status-cases.ts";
import cases from "../../golden/cases.json" with { type: "json" };

Deno.test("parameters are counted as PEFT counts them, for every LoRA case", async () => {
  for (const { name, kind, adapters } of cases.lora) {
    if (adapters.length) continue;
    const { config, trainable_parameters, all_parameters } = await readJsonFile(
      `${golden}lora/${name}/case.json`,
    );
    const model = getPeftModel(await goldenBase(kind), peftLora(config as never));
    assertEquals(
      getNbTrainableParameters(model),
      { trainable: trainable_parameters, all: all_parameters } as never,
      name,
    );
  }
});

Deno.test("counts and lines are PEFT's with several adapters, in every state", async () => {
  for (const item of statusCases) {
    const model = await buildCase(item);
    const written: string[] = [];
    const line = printTrainableParameters(model, { write: (text) => void written.push(text) });
    assertEquals([line, ...written], [item.line, item.line], item.name);
    assertEquals(getNbTrainableParameters(model), {
      trainable: item.trainable,
      all: item.all,
    });
  }
});

Deno.test("lines are written as Python writes numbers", () => {
  for (const [trainable, all, line] of lines) assertEquals(formatCounts({ trainable, all }), line);
});

Deno.test("what is counted as trainable is what training changes", async () => {
  for (const item of statusCases) {
    const model = await buildCase(item);
    // Of all that is flagged, training takes the active ones; PEFT counts tied leaves twice.
    const isFlagged = model.trainable.every((name) => model.active.includes(name));
    const isTied = [...model.adapters.values()].some((adapter) =>
      partsOfKind(adapter, "site").some(({ leaves }) =>
        Object.values(leaves).some(({ tie }) => tie)
      )
    );
    if (!isFlagged || isTied || model.merged) continue;
    const leaves = [...trainableLeaves(model).values()];
    assertEquals(leaves.reduce((n, { shape }) => n + sizeOf(shape), 0), item.trainable, item.name);
  }
});

Deno.test("a tied copy is counted once, also after training", async () => {
  const base = await goldenBase("llama_tied");
  const config = loraConfig({ modulesToSave: ["lm_head"], ensureWeightTying: true });
  const model = getPeftModel(base, config);
  const trained = withLeaves(
    model,
    new Map(
      [...trainableLeaves(model)].map(([name, { shape }]) => [
        name,
        tensor(new Float32Array(sizeOf(shape)).fill(0.25), { shape }),
      ]),
    ),
  );
  assertEquals(getNbTrainableParameters(trained), getNbTrainableParameters(model));
});

Deno.test("a base is counted whole, a merged model as before, a quantized weight by its numbers", async () => {
  const base = await goldenBase("llama");
  assertEquals(getNbTrainableParameters(base), { trainable: 20960, all: 20960 });
  const model = getPeftModel(base, loraConfig({ r: 3 }));
  const name = "model.layers.0.self_attn.q_proj.weight";
  const blocks = tensor(new Uint8Array(32 * 18), { shape: [32, 32], dtype: "q4_0" });
  const other = {
    ...base,
    parameters: new Map([...base.parameters, [name, blocks], ["extra", blocks]]),
  };
  const merged: PeftModel = { ...model, base: other, merged: { names: ["default"], base } };
  assertEquals(getNbTrainableParameters(merged), getNbTrainableParameters(model));
  assertEquals(getNbTrainableParameters(other).all, 20960 + 32 * 32);
  assertThrows(() => getNbTrainableParameters(undefined as never), ValueError, "A model is needed");
});
