import { assert, assertEquals, assertThrows } from "@std/assert";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import type { Adapter } from "../../lib/adapters/peft-model.ts";
import {
  deleteAdapter,
  disableAdapters,
  enableAdapters,
  pristine,
  setAdapter,
  setRequiresGrad,
} from "../../lib/adapters/select.ts";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { prefixTuningConfig } from "../../lib/methods/prefix-tuning.ts";
import { goldenBase } from "./bases.ts";

async function twoAdapters() {
  const one = getPeftModel(await goldenBase("llama"), loraConfig({ r: 2 }), { adapterName: "one" });
  return addAdapter(one, "two", loraConfig({ r: 3, targetModules: ["o_proj"] }));
}

Deno.test("setAdapter activates, and makes trainable what it activates or is told", async () => {
  const model = await twoAdapters();
  const two = setAdapter(model, "two");
  assertEquals([model.active, two.active], [["one"], ["two"]]);
  assertEquals([model.trainable, two.trainable], [["one"], ["two"]]);
  assertEquals(setAdapter(model, "two", { train: [] }).trainable, []);
  assertEquals(setAdapter(model, ["one", "two"], { train: ["two"] }).trainable, ["two"]);
  assertThrows(() => setAdapter(model, "two", { train: ["tow"] }), ValueError, "nearest: two");
  assertThrows(() => setAdapter(model, "two", { trian: [] } as never), ValueError, "train");
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

Deno.test("setRequiresGrad says what training changes, whatever is active", async () => {
  const model = await twoAdapters();
  assertEquals(setRequiresGrad(model, "two").trainable, ["one", "two"]);
  assertEquals(setRequiresGrad(model, ["one", "two"], false).trainable, []);
  assertEquals(setRequiresGrad(model, "two", false).trainable, ["one"]);
  assertThrows(() => setRequiresGrad(model, "three"), ValueError);
  assertEquals(model.trainable, ["one"]);
});

Deno.test("adapters of several methods are active together where all of them can be", async () => {
  const model = await twoAdapters();
  const two = model.adapters.get("two")!;
  const otherMethod = (mixes: boolean): Adapter => ({
    ...two,
    method: {
      ...two.method,
      name: "alone",
      config: { ...two.method.config, peftType: "ALONE", mixes },
    },
    config: { ...two.config, peftType: "ALONE" },
  });
  const mixed = { ...model, adapters: new Map([...model.adapters, ["two", otherMethod(false)]]) };
  const error = assertThrows(() => setAdapter(mixed, ["one", "two"]), UnsupportedError);
  assertEquals(error.code, "ADAPTERS_MIXED");
  assertEquals(setAdapter(mixed, "two").active, ["two"]);
  const allowed = { ...model, adapters: new Map([...model.adapters, ["two", otherMethod(true)]]) };
  assertEquals(setAdapter(allowed, ["one", "two"]).active, ["one", "two"]);
});

Deno.test("what works on adapters takes merged ones out of the base", async () => {
  const model = await twoAdapters();
  const base = { ...model.base };
  const merged = { ...model, base, merged: { names: ["one"], base: model.base } };
  assertEquals(trainableLeaves(merged).size, 0);
  for (const next of [setAdapter(merged, "two"), disableAdapters(merged), pristine(merged)]) {
    assert(next.base === model.base && next.merged === undefined);
  }
});

Deno.test("a deleted adapter is followed by the first by name, as in PEFT", async () => {
  const base = await goldenBase("llama");
  const config = loraConfig({ r: 2 });
  const named = ["zeta", "omega", "beta"];
  const model = named.slice(1).reduce(
    (before, name) => addAdapter(before, name, config),
    getPeftModel(base, config, { adapterName: named[0] }),
  );
  assertEquals(deleteAdapter(model, "zeta").active, ["beta"]);
  const prefix = prefixTuningConfig({ numVirtualTokens: 2 });
  const prefixed = named.slice(1).reduce(
    (before, name) => addAdapter(before, name, prefix),
    getPeftModel(base, prefix, { adapterName: named[0] }),
  );
  assertEquals(deleteAdapter(prefixed, "zeta").active, ["omega"]);
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
  const next = deleteAdapter(model, "one");
  assertEquals([next.active, next.trainable], [["two"], ["two"]]);
  const none = deleteAdapter(next, "two");
  assertEquals([none.adapters.size, none.active.length, none.trainable.length], [0, 0, 0]);
  assertEquals(deleteAdapter(model, ["two", "one"]), none);
  assertThrows(() => deleteAdapter(model, ["two", "on"]), ValueError, "nearest: one");
});
