import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  addAdapters,
  compressAdapter,
  scaleAdapter,
} from "../../../lib/adapters/combine/adapter-algebra.ts";
import { forward } from "../../../lib/adapters/forward.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { adaptedPaths, leavesAt, partsOfKind } from "../../../lib/adapters/parts.ts";
import type { AnyModel, PeftModel } from "../../../lib/adapters/peft-model.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { setAdapter } from "../../../lib/adapters/select.ts";
import { UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { ia3Config } from "../../../lib/methods/ia3.ts";
import { type LoraConfig, loraConfig, loraShape } from "../../../lib/methods/lora/lora-config.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { testDevice, testOnDevices } from "../../devices.ts";
import { goldenBase } from "../bases.ts";
import { randomAdapters } from "../random-adapter.ts";

const LOGITS = 2e-5;
const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };

const CONFIGS: Readonly<Record<string, LoraConfig>> = {
  a: loraConfig({
    r: 4,
    loraAlpha: 6,
    targetModules: ["wte", "c_attn", "c_fc"],
    rankPattern: { "h.0.attn.c_attn": 2 },
    alphaPattern: { c_fc: 3 },
  }),
  b: loraConfig({ r: 3, loraAlpha: 5, useRslora: true, targetModules: ["c_attn", "mlp.c_proj"] }),
  c: loraConfig({ r: 2, initLoraWeights: "pissa", targetModules: ["c_attn"], loraAlpha: 3 }),
};

async function model(device = testDevice("cpu")): Promise<PeftModel> {
  return await randomAdapters(await goldenBase("gpt2", await device), CONFIGS);
}

async function logitsOf(of: AnyModel): Promise<Float32Array> {
  return await toFloat32((await forward(of, INPUTS)).logits);
}

function apart(got: Float32Array, want: Float32Array): number {
  return Math.max(...want.map((x, i) => Math.abs(x - got[i]))) / Math.max(...want.map(Math.abs));
}

const cpuTest = (name: string, fn: () => Promise<void>) =>
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });

testOnDevices("adapters of any ranks, patterns and targets add up exactly", async (device) => {
  const start = await model(Promise.resolve(device));
  const names = ["a", "b", "c"];
  const sum = addAdapters(start, names, { as: "sum" });
  assertEquals([sum.active, sum.trainable], [start.active, start.trainable]);
  const want = await logitsOf(setAdapter(start, names));
  assert(apart(await logitsOf(setAdapter(sum, "sum")), want) < LOGITS);
  // No rank is wasted where only one of them takes part.
  const added = sum.adapters.get("sum")!;
  const rankOf = (path: string) => {
    const { lora_A, lora_embedding_A } = leavesAt(added, `transformer.${path}`)!;
    return (lora_A ?? lora_embedding_A).shape[0];
  };
  const paths = ["wte", "h.0.attn.c_attn", "h.1.attn.c_attn", "h.0.mlp.c_fc", "h.1.mlp.c_proj"];
  assertEquals(paths.map(rankOf), [4, 2 + 3 + 4, 4 + 3 + 4, 4, 3]);
  for (const path of adaptedPaths(added)) {
    assertEquals(loraShape(added.config as LoraConfig, start.base.sites.get(path)!).scale, 1);
  }
});

cpuTest("weights of a sum are those of its adapters' multiples", async () => {
  const start = await model();
  const sum = addAdapters(start, ["a", "b"], { as: "sum", weights: [0.5, -2] });
  const scaled: PeftModel = { ...start, multipliers: new Map([["a", 0.5], ["b", -2]]) };
  const want = await logitsOf(setAdapter(scaled, ["a", "b"]));
  assert(apart(await logitsOf(setAdapter(sum, "sum")), want) < LOGITS);
  // What a multiplier has scaled already is added as it is.
  const again = addAdapters(scaled, ["a", "b"], { as: "sum" });
  assert(apart(await logitsOf(setAdapter(again, "sum")), want) < LOGITS);
});

cpuTest("an adapter that is scaled for good gives what a scaled one gives", async () => {
  const start = await model();
  const dora = await randomAdapters(start.base, {
    a: loraConfig({ r: 2, useDora: true, targetModules: ["c_attn", "wte"] }),
  });
  for (const [of, name] of [[start, "a"], [start, "b"], [start, "c"], [dora, "a"]] as const) {
    for (const factor of [-0.75, 0, 1.5]) {
      const want = await logitsOf(
        setAdapter({ ...of, multipliers: new Map([[name, factor]]) }, name),
      );
      const named = scaleAdapter(of, name, { factor, as: "times" });
      assert(apart(await logitsOf(setAdapter(named, "times")), want) < LOGITS, name);
      const inPlace = scaleAdapter(of, name, { factor });
      assertEquals([...inPlace.adapters.keys()], [...of.adapters.keys()]);
      assert(apart(await logitsOf(setAdapter(inPlace, name)), want) < LOGITS, name);

      const folder = await Deno.makeTempDir();
      await savePretrained(named, folder, { selectedAdapters: ["times"] });
      const loaded = await loadAdapter(of.base, `${folder}/times`);
      assert(apart(await logitsOf(loaded), want) < LOGITS, `${name} times ${factor}, loaded`);
      await Deno.remove(folder, { recursive: true });
    }
  }
  // A multiplier is part of a new adapter, and stays with the name of a replaced one.
  const half: PeftModel = { ...start, multipliers: new Map([["a", 0.5]]) };
  const want = await logitsOf(setAdapter({ ...start, multipliers: new Map([["a", 2]]) }, "a"));
  for (const as of [undefined, "new"]) {
    const scaled = setAdapter(scaleAdapter(half, "a", { factor: 4, as }), as ?? "a");
    assert(apart(await logitsOf(scaled), want) < LOGITS);
  }
});

Deno.test("scaling shares the values", async () => {
  const start = await randomAdapters(await goldenBase("gpt2"), CONFIGS);
  const { adapters } = scaleAdapter(start, "a", { factor: 3, as: "new" });
  const leaves = (name: string) =>
    partsOfKind(adapters.get(name)!, "site").flatMap((part) => Object.values(part.leaves));
  const [made, own] = [leaves("new"), leaves("a")];
  assert(made.length === own.length && own.length > 0);
  own.forEach(({ tensor }, i) => assert(tensor && made[i].tensor === tensor));
});

/** What an adapter adds to the weight of a module, [out, in]. */
async function change(of: PeftModel, name: string, path: string): Promise<Float64Array> {
  const adapter = of.adapters.get(name)!, { config } = adapter;
  const site = of.base.sites.get(path)!, leaves = leavesAt(adapter, path)!;
  const a = await toFloat32(leaves.lora_A ?? leaves.lora_embedding_A);
  const b = await toFloat32(leaves.lora_B ?? leaves.lora_embedding_B);
  const { scale } = loraShape(config as LoraConfig, site), r = a.length / site.inFeatures;
  const out = new Float64Array(site.outFeatures * site.inFeatures);
  for (let o = 0; o < site.outFeatures; o++) {
    for (let k = 0; k < r; k++) {
      for (let i = 0; i < site.inFeatures; i++) {
        out[o * site.inFeatures + i] += scale * b[o * r + k] * a[k * site.inFeatures + i];
      }
    }
  }
  return out;
}

const length = (x: Float64Array) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));

cpuTest("the residual of a compressed adapter is what is lost", async () => {
  const start = await model();
  const { model: small, residual } = await compressAdapter(start, "a", { rank: 3, as: "small" });
  assertEquals((small.adapters.get("small")!.config as LoraConfig).r, 3);
  let lost = 0, total = 0;
  for (const [path, share] of residual.sites) {
    const before = await change(start, "a", path), after = await change(small, "small", path);
    const rest = length(before.map((x, i) => x - after[i]));
    assert(Math.abs(rest / length(before) - share) < 1e-6, `${path}: ${share}`);
    lost += rest ** 2;
    total += length(before) ** 2;
  }
  assert(Math.abs(Math.sqrt(lost / total) - residual.total) < 1e-6);
  // The first layer has the rank 2 and loses nothing.
  assert(residual.sites.get("transformer.h.0.attn.c_attn")! < 1e-6);
  assert(residual.sites.get("transformer.h.1.attn.c_attn")! > 0.05);
  assert(residual.total > 0.05 && residual.total < 1);
});

cpuTest("a rank that is high enough loses nothing", async () => {
  const start = await randomAdapters(await goldenBase("llama_tied", await testDevice("cpu")), {
    dora: loraConfig({ r: 4, useDora: true, targetModules: ["v_proj", "embed_tokens"] }),
    bias: loraConfig({ r: 3, loraAlpha: 7, loraBias: true, targetModules: ["v_proj", "o_proj"] }),
    tied: loraConfig({
      r: 3,
      loraAlpha: 5,
      targetModules: ["embed_tokens"],
      ensureWeightTying: true,
    }),
    saved: loraConfig({ r: 2, targetModules: ["v_proj"], modulesToSave: ["norm"] }),
    pissa: loraConfig({ r: 2, initLoraWeights: "pissa", targetModules: ["v_proj"] }),
  });
  for (const name of start.adapters.keys()) {
    const want = await logitsOf(setAdapter(start, name));
    const { model: same, residual } = await compressAdapter(start, name, { rank: 9 });
    assert(residual.total < 1e-6, name);
    assert(apart(await logitsOf(setAdapter(same, name)), want) < LOGITS, name);
    const folder = await Deno.makeTempDir();
    await savePretrained(same, folder, { selectedAdapters: [name] });
    const loaded = await loadAdapter(start.base, `${folder}/${name}`);
    assert(apart(await logitsOf(loaded), want) < LOGITS, `${name}, loaded`);
    await Deno.remove(folder, { recursive: true });
  }
});

cpuTest("a sum is compressed to the rank that it needs", async () => {
  const start = await model();
  const twice = addAdapters(start, ["a", "a"], { as: "twice" });
  const { model: small, residual } = await compressAdapter(twice, "twice", { rank: 4 });
  assert(residual.total < 1e-6);
  const want = await logitsOf(setAdapter(twice, "twice"));
  assert(apart(await logitsOf(setAdapter(small, "twice")), want) < LOGITS);
});

Deno.test("what cannot be calculated is told", async () => {
  const base = await goldenBase("llama");
  const start = await randomAdapters(base, {
    a: loraConfig({ r: 2 }),
    dora: loraConfig({ r: 2, useDora: true }),
    ia3: ia3Config({}),
  });
  assertThrows(
    () => addAdapters(start, ["a", "dora"], { as: "x" }),
    UnsupportedError,
    'useDora add does not add up to another adapter, and "dora" is one',
  );
  assertThrows(() => addAdapters(start, ["a", "ia3"], { as: "x" }), UnsupportedError, "one method");
  assertThrows(() => addAdapters(start, ["a"], { as: "dora" }), ValueError, "already an adapter");
  assertThrows(() => addAdapters(start, [], { as: "x" }), ValueError, "at least one");
  assertThrows(() => addAdapters(start, ["a"], {} as never), ValueError, "cannot name an adapter");
  assertThrows(
    () => addAdapters(start, ["a", "dora"], { as: "x", weights: [1] }),
    ValueError,
    "2 adapters (a, dora), and 1 weights",
  );
  assertThrows(() => scaleAdapter(start, "b", { factor: 1 }), ValueError, "no adapter named");
  for (const factor of [NaN, Infinity, "2", undefined]) {
    assertThrows(
      () => scaleAdapter(start, "a", { factor: factor as number }),
      ValueError,
      "a finite number",
    );
  }
  for (const rank of [0, 1.5, undefined]) {
    await assertRejects(
      () => compressAdapter(start, "a", { rank: rank as number }),
      ValueError,
      "a whole number above 0",
    );
  }
  await assertRejects(
    () => compressAdapter(start, "ia3", { rank: 1 }),
    UnsupportedError,
    "IA3 has no ranks",
  );
});
