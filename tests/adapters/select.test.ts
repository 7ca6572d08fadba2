import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import {
  deleteAdapter,
  disableAdapters,
  enableAdapters,
  setAdapter,
  withAdapterScale,
} from "../../lib/adapters/select.ts";
import { ValueError } from "../../lib/errors.ts";
import { loraConfig } from "../../lib/methods/lora-config.ts";
import { goldenBase } from "./bases.ts";

async function twoAdapters() {
  const one = getPeftModel(await goldenBase("llama"), loraConfig({ r: 2 }), { adapterName: "one" });
  return addAdapter(one, "two", loraConfig({ r: 3, targetModules: ["o_proj"] }));
}

Deno.test("setAdapter activates, and leaves what is trainable alone", async () => {
  const model = await twoAdapters();
  const two = setAdapter(model, "two");
  assertEquals([model.active, two.active], [["one"], ["two"]]);
  assertEquals(two.trainable, ["one", "two"]);
  assertEquals(
    [...trainableLeaves(two).keys()],
    [0, 1].flatMap((i) => [
      `a0.model.layers.${i}.self_attn.o_proj.lora_A`,
      `a0.model.layers.${i}.self_attn.o_proj.lora_B`,
    ]),
  );
  const both = setAdapter(model, ["two", "one"]);
  assertEquals(both.active, ["two", "one"]);
  assert(trainableLeaves(both).has("a1.model.layers.0.self_attn.q_proj.lora_A"));
  for (const names of ["tow", [], ["one", "one"]]) {
    assertThrows(() => setAdapter(model, names), ValueError);
  }
});

Deno.test("adapters that replace the same thing are not active together", async () => {
  const base = await goldenBase("llama");
  for (
    const config of [
      loraConfig({ modulesToSave: ["lm_head"] }),
      loraConfig({ trainableTokenIndices: [5] }),
    ]
  ) {
    const model = addAdapter(getPeftModel(base, config), "two", config);
    const error = assertThrows(() => setAdapter(model, ["default", "two"]), ValueError);
    assertEquals(error.code, "ADAPTERS_CLASH");
    setAdapter(model, "two");
  }
});

Deno.test("adapters are switched off and on, and deleted", async () => {
  const model = await twoAdapters();
  const off = disableAdapters(model);
  assertEquals([off.enabled, model.enabled, enableAdapters(off).enabled], [false, true, true]);
  assertEquals(trainableLeaves(off).size, 0);
  const less = deleteAdapter(setAdapter(model, ["one", "two"]), "one");
  assertEquals([[...less.adapters.keys()], less.active, less.trainable], [["two"], ["two"], [
    "two",
  ]]);
  assertThrows(() => deleteAdapter(less, "one"), ValueError, "two");
});

Deno.test("withAdapterScale scales for one call", async () => {
  const model = await twoAdapters();
  const seen = (m: typeof model) => [...m.multipliers];
  const { value, model: restored } = await withAdapterScale(model, 0.5, seen);
  assertEquals(value, [["one", 0.5]]);
  assert(restored === model);
  assertEquals(model.multipliers.size, 0);
  const nested = await withAdapterScale(
    model,
    { one: 3, two: -2 },
    (outer) => withAdapterScale(outer, { one: 0.5 }, (inner) => Promise.resolve(seen(inner))),
  );
  assertEquals(nested.value.value, [["one", 1.5], ["two", -2]]);
  await assertRejects(() => withAdapterScale(model, NaN, seen), ValueError);
  await assertRejects(() => withAdapterScale(model, { three: 1 }, seen), ValueError);
});
