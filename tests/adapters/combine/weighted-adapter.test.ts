/**
 * Combined adapters beside those of the real PEFT, and what PEFT gets wrong.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { forward } from "../../../lib/adapters/forward.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { adaptedPaths, leavesAt, mapLeaves } from "../../../lib/adapters/parts.ts";
import type { Adapter, AnyModel, PeftModel } from "../../../lib/adapters/peft-model.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { deleteAdapter, setAdapter } from "../../../lib/adapters/select.ts";
import {
  addWeightedAdapter,
  type WeightedAdapterOptions,
} from "../../../lib/adapters/combine/weighted-adapter.ts";
import type { Device } from "../../../lib/device/device.ts";
import { UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { openSafetensors } from "../../../lib/io/safetensors.ts";
import type { LoraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { lora } from "../../../lib/methods/lora/lora.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import type { Tensor } from "../../../lib/tensor/tensor.ts";
import { testDevice, testOnceOnWebGpu } from "../../devices.ts";
import index from "../../golden/combinations/index.json" with { type: "json" };
import { golden, goldenBase, peftLora } from "../bases.ts";
import { randomAdapters } from "../random-adapter.ts";

/** Bound of logits as a share of the largest. */
const LOGITS = 2e-5;
const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };

const { tensors } = await openSafetensors(`${golden}combinations/expected.safetensors`);

interface Call {
  readonly adapters: readonly string[];
  readonly weights: readonly number[];
  readonly arguments: Readonly<Record<string, unknown>>;
}

type Sets = Readonly<
  Record<string, { readonly kind: string; readonly adapters: readonly string[] }>
>;

const sets: Sets = index.sets;

async function loadSet(name: string, device?: Device): Promise<PeftModel> {
  const { kind, adapters } = sets[name];
  let model: AnyModel = await goldenBase(kind, device);
  for (const adapterName of adapters) {
    const options = { adapterName, subfolder: adapterName };
    model = await loadAdapter(model, `${golden}combinations/${name}`, options);
  }
  return model as PeftModel;
}

/** A call of PEFT's as one here. */
function optionsOf(call: Call, seed?: number): WeightedAdapterOptions {
  const named = Object.entries(call.arguments).map(([key, value]) => [
    key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
    value,
  ]);
  const { adapters, weights } = call;
  return { adapterName: "combined", ...Object.fromEntries(named), adapters, weights, seed };
}

async function logitsOf(model: AnyModel, inputs = INPUTS): Promise<Float32Array> {
  return await toFloat32((await forward(model, inputs)).logits);
}

function apart(got: Float32Array, want: Float32Array): number {
  return Math.max(...want.map((x, i) => Math.abs(x - got[i]))) / Math.max(...want.map(Math.abs));
}

for (const set of Object.keys(sets)) {
  const cases = index.cases.filter((one) => one.set === set);
  testOnceOnWebGpu(`combined adapters are PEFT's: ${set}`, async (device) => {
    const model = await loadSet(set, device);
    const check = async (of: PeftModel, name: string, bound = LOGITS) => {
      const { logits } = await forward(of, { inputIds: tensors.get("in.input_ids")! });
      const found = apart(await toFloat32(logits), await toFloat32(tensors.get(name)!));
      assert(found < bound, `${name}: ${found} of the largest logit`);
    };
    for (const name of sets[set].adapters) await check(setAdapter(model, name), `${set}.${name}`);
    // What is computed on the way is the same wherever the result runs.
    const chosen = device.kind === "cpu" ? cases : cases.filter((_, i) => i % 12 === 1);
    for (const one of chosen) {
      const combined = addWeightedAdapter(model, optionsOf(one, one.seed));
      assertEquals([combined.active, combined.trainable], [model.active, model.trainable]);
      checkConfig(combined.adapters.get("combined")!.config as LoraConfig, one);
      // PEFT decomposes in 32 bits, which tell singular values apart as well as they can.
      const bound = LOGITS * Math.max(1, 0.03 / (one.gap ?? 1));
      await check(setAdapter(combined, "combined"), one.name, bound);
    }
  });
}

/** The config is PEFT's where that says what the adapter is; its scale is always 1. */
function checkConfig(config: LoraConfig, { config: want, name }: typeof index.cases[number]) {
  if (want.r) {
    assertEquals([config.r, config.loraAlpha, config.useRslora], [want.r, want.lora_alpha, false]);
  }
  const { targetModules: targets } = config;
  if (typeof targets === "string") assertEquals(targets, want.target_modules);
  else if (typeof want.target_modules === "number") {
    assertEquals(targets!.length, want.target_modules);
  } else assertEquals([...targets!].sort(), want.target_modules, name);
}

Deno.test("what PEFT refuses is refused, with what is needed to go on", async () => {
  const expected: Readonly<Record<string, string>> = {
    unknown_adapter: 'no adapter named "x" (nearest: a); it has a, b, c',
    unknown_type: "the combination types are svd, linear, cat",
    no_adapters: "at least one",
    fewer_weights: "there are 2 adapters (a, b), and 1 weights",
    more_weights: "and 3 weights",
    no_density: "needs a density",
    no_density_svd: '"dare_linear_svd" prunes',
    density_below: "density must be a number from 0 to 1; found -0.1",
    density_above: "found 1.25",
    unknown_sign_method: "majoritySignMethod must be one of total, frequency",
    other_ranks: '"a" has 6, "b" has 3. Use "cat"',
    other_ranks_pruned: '"dare_linear"',
    list_and_regex: '"a" has a list, "b" has ".*k_proj"',
    other_patterns: "at model.layers.0.self_attn.v_proj they have 2 and 4 (rankPattern)",
    same_module_saved: '"a" and "b" both replace lm_head.weight (modulesToSave',
    name_taken: 'already an adapter named "c"',
  };
  assertEquals(index.refused.map(({ name }) => name), Object.keys(expected));
  for (const { name, ...call } of index.refused) {
    const model = call.configs
      ? await made(await goldenBase(call.kind!), call.configs)
      : await loadSet(call.set);
    assertThrows(() => addWeightedAdapter(model, optionsOf(call)), ValueError, expected[name]);
  }
});

function made(base: ModelGraph, configs: Readonly<Record<string, unknown>>): Promise<PeftModel> {
  return randomAdapters(
    base,
    Object.fromEntries(
      Object.entries(configs).map(([name, config]) => [
        name,
        peftLora(config as Record<string, unknown>),
      ]),
    ),
  );
}

async function cpuBase(kind: string): Promise<ModelGraph> {
  return await goldenBase(kind, await testDevice("cpu"));
}

/** Whether the exact combination of both adapters gives what both give together. */
async function assertAddsUp(
  kind: string,
  configs: Readonly<Record<"a" | "b", Record<string, unknown>>>,
): Promise<PeftModel> {
  const model = await made(await cpuBase(kind), configs);
  const options = { adapters: ["a", "b"], weights: [1, 1], combinationType: "cat" } as const;
  const combined = addWeightedAdapter(model, { ...options, adapterName: "both" });
  const want = await logitsOf(setAdapter(model, ["a", "b"]));
  const found = apart(await logitsOf(setAdapter(combined, "both")), want);
  assert(found < LOGITS, `${JSON.stringify(configs)}: ${found}`);
  assert(apart(await logitsOf(setAdapter(model, "a")), want) > 1e-2, "b changes something");

  const folder = await Deno.makeTempDir();
  await savePretrained(combined, folder, { selectedAdapters: ["both"] });
  const again = await loadAdapter(model.base, `${folder}/both`);
  assert(apart(await logitsOf(again), want) < LOGITS, "saved and loaded");
  await Deno.remove(folder, { recursive: true });
  return combined;
}

const cpuTest = (name: string, fn: () => Promise<void>) =>
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });

cpuTest("everything that one of the adapters has is in the combined one", async () => {
  const qv = ["q_proj", "v_proj"];
  const plain = { r: 3, lora_alpha: 5, target_modules: qv };
  // PEFT keeps the root of the rank as a scale.
  await assertAddsUp("llama", { a: { ...plain, use_rslora: true }, b: plain });
  // PEFT goes by the layers and exclusions of the first.
  await assertAddsUp("llama", { a: { ...plain, layers_to_transform: [1] }, b: plain });
  await assertAddsUp("llama", {
    a: { ...plain, target_modules: ["o_proj"], exclude_modules: ["layers.0.self_attn.v_proj"] },
    b: plain,
  });
  await assertAddsUp("llama", {
    a: plain,
    b: { ...plain, target_modules: ["up_proj"], layers_to_transform: [0] },
  });
  // PEFT forgets biases, saved modules and token rows.
  await assertAddsUp("llama", {
    a: { ...plain, lora_bias: true },
    b: { r: 2, target_modules: ["v_proj", "down_proj"] },
  });
  const saved = await assertAddsUp("llama", {
    a: { ...plain, modules_to_save: ["norm"] },
    b: { ...plain, modules_to_save: ["lm_head"] },
  });
  assertEquals((saved.adapters.get("both")!.config as LoraConfig).modulesToSave!.length, 2);
  await assertAddsUp("llama", { a: plain, b: { ...plain, trainable_token_indices: [3, 9] } });
  await assertAddsUp("qwen2", { a: plain, b: { ...plain, bias: "lora_only" } });
  // PEFT takes the decomposition out of the base once more.
  await assertAddsUp("llama", { a: { ...plain, init_lora_weights: "pissa" }, b: plain });
  await assertAddsUp("llama", { a: plain, b: { ...plain, init_lora_weights: "olora" } });
  await assertAddsUp("llama", { a: { ...plain, r: 4, init_lora_weights: "orthogonal" }, b: plain });
  // In PEFT only the first adapter of a model is tied.
  const tied = { ...plain, target_modules: ["embed_tokens", "v_proj"], ensure_weight_tying: true };
  await assertAddsUp("llama_tied", { a: tied, b: { ...tied, r: 2 } });
  const savedTied = { ...plain, modules_to_save: ["embed_tokens"], ensure_weight_tying: true };
  await assertAddsUp("llama_tied", { a: savedTied, b: plain });
  await assertAddsUp("gpt2", {
    a: { r: 3, lora_alpha: 4, target_modules: ["c_attn", "wte"], rank_pattern: { wte: 2 } },
    b: { r: 5, lora_alpha: 8, target_modules: ["c_attn", "wpe"] },
  });
});

cpuTest("ranks that differ by module are saved as they are", async () => {
  const model = await loadSet("patterns", await testDevice("cpu"));
  for (const options of [{ combinationType: "linear" }, { svdRank: 40 }] as const) {
    const combined = addWeightedAdapter(model, {
      adapters: ["b", "a"],
      weights: [0.4, -1.1],
      adapterName: "other",
      ...options,
    });
    const folder = await Deno.makeTempDir();
    await savePretrained(combined, folder, { selectedAdapters: ["other"] });
    const again = await loadAdapter(model.base, `${folder}/other`);
    const want = await logitsOf(setAdapter(combined, "other"));
    assert(apart(await logitsOf(again), want) < 1e-6);
    await Deno.remove(folder, { recursive: true });
  }
});

cpuTest("directions and magnitudes of DoRA are combined", async () => {
  const model = await made(await cpuBase("gpt2"), {
    a: { r: 3, lora_alpha: 5, use_dora: true, target_modules: ["c_attn", "wte"] },
    b: { r: 3, lora_alpha: 4, target_modules: ["c_attn", "wte"] },
  });
  const combine = (weights: readonly [number, number], combinationType: "cat" | "svd") =>
    setAdapter(
      addWeightedAdapter(model, {
        adapters: ["a", "b"],
        weights,
        adapterName: "c",
        combinationType,
        svdRank: 6,
      }),
      "c",
    );
  for (const type of ["cat", "svd"] as const) {
    // An adapter alone is what it was, with DoRA and without.
    for (const [name, weights] of [["a", [1, 0]], ["b", [0, 1]]] as const) {
      const want = await logitsOf(setAdapter(model, name));
      assert(apart(await logitsOf(combine(weights, type)), want) < LOGITS, `${type} ${name}`);
    }
    const none = await logitsOf(model.base);
    assert(apart(await logitsOf(combine([0, 0], type)), none) < LOGITS);
    assert(apart(await logitsOf(combine([0.5, 0.5], type)), none) > 1e-2);
  }
});

cpuTest("an adapter less itself is nothing, and an adapter times −1 its opposite", async () => {
  const model = await loadSet("plain", await testDevice("cpu"));
  const none = await logitsOf(model.base);
  const lost: Record<string, number> = {};
  for (
    const combinationType of lora.combine!.types as WeightedAdapterOptions["combinationType"][]
  ) {
    const options = { combinationType, density: 1, adapterName: "new" };
    const nothing = addWeightedAdapter(model, {
      ...options,
      adapters: ["a", "a"],
      weights: [0.8, -0.8],
    });
    lost[combinationType!] = apart(await logitsOf(setAdapter(nothing, "new")), none);
    const opposite = addWeightedAdapter(model, { ...options, adapters: ["a"], weights: [-1] });
    const sum = addWeightedAdapter(opposite, {
      adapters: ["a", "new"],
      weights: [1, 1],
      adapterName: "sum",
      combinationType: "cat",
    });
    lost[`${combinationType} −1`] = apart(await logitsOf(setAdapter(sum, "sum")), none);
  }
  assertEquals(Object.entries(lost).filter(([, value]) => value > LOGITS), []);
});

cpuTest("a multiplier counts as part of an adapter's scale", async () => {
  const model = await loadSet("plain", await testDevice("cpu"));
  const options = { adapters: ["a"], weights: [0.5], adapterName: "new" };
  const want = await logitsOf(setAdapter(addWeightedAdapter(model, options), "new"));
  const scaled = { ...model, multipliers: new Map([["a", 0.25]]) };
  const value = await logitsOf(
    setAdapter(addWeightedAdapter(scaled, { ...options, weights: [2] }), "new"),
  );
  assert(apart(value, want) < LOGITS);
});

cpuTest("dropping everything leaves nothing", async () => {
  const model = await loadSet("plain", await testDevice("cpu"));
  const none = await logitsOf(model.base);
  for (const combinationType of ["dare_linear", "dare_ties_svd", "ties"] as const) {
    const combined = addWeightedAdapter(model, {
      adapters: ["a", "b"],
      weights: [1, 1],
      adapterName: "new",
      combinationType,
      density: 0,
    });
    assertEquals(await logitsOf(setAdapter(combined, "new")), none);
  }
});

Deno.test("factors are clamped to a quantile of themselves", async () => {
  const model = await loadSet("plain");
  const values = async (svdClamp?: number) => {
    const combined = addWeightedAdapter(model, {
      adapters: ["a", "b"],
      weights: [0.5, 0.5],
      adapterName: "new",
      svdClamp,
    });
    const adapter = combined.adapters.get("new")!;
    const leaves = leavesAt(adapter, adaptedPaths(adapter)[0])!;
    return [...await toFloat32(leaves.lora_A), ...await toFloat32(leaves.lora_B)];
  };
  const all = await values();
  assertEquals(await values(1), all);
  const clamped = await values(0.9);
  const limit = Math.max(...clamped.map(Math.abs));
  // A tenth of the values lie above the limit or below its negative, on either side.
  const outside = all.filter((x) => Math.abs(x) > limit).length / all.length;
  assert(Math.abs(outside - 0.2) < 0.02, `${outside}`);
  assert(clamped.every((x, i) => x === Math.fround(Math.max(-limit, Math.min(limit, all[i])))));
  for (const svdClamp of [0.3, 1.5]) {
    assertThrows(
      () =>
        addWeightedAdapter(model, {
          adapters: ["a", "b"],
          weights: [1, 1],
          adapterName: "new",
          svdClamp,
        }),
      ValueError,
      "svdClamp must be a number from 0.5 to 1",
    );
  }
});

Deno.test("nothing is read before it is needed, and the same is computed again", async () => {
  const loaded = await loadSet("plain");
  let reads = 0;
  const counted = (tensor: Tensor): Tensor => ({
    ...tensor,
    data: () => {
      reads++;
      return tensor.data();
    },
  });
  const a = loaded.adapters.get("a")!;
  const parts = mapLeaves(a.parts, counted);
  const model = { ...loaded, adapters: new Map([...loaded.adapters, ["a", { ...a, parts }]]) };
  const options = {
    adapters: ["a", "b"],
    weights: [0.5, -0.5],
    adapterName: "new",
    combinationType: "dare_ties",
    density: 0.5,
    seed: 4,
  } as const;
  const one = addWeightedAdapter(model, options), two = addWeightedAdapter(model, options);
  assertEquals(reads, 0);
  const leavesOf = (of: PeftModel) => {
    const adapter = of.adapters.get("new")!;
    return adaptedPaths(adapter).map((path) => leavesAt(adapter, path)!);
  };
  // The last site alone, and all from the first on.
  const last = await leavesOf(one).at(-1)!.lora_B.data();
  assertEquals(reads, 2);
  const all: unknown[] = [];
  for (const { lora_A, lora_B } of leavesOf(two)) {
    await lora_A.data();
    all.push(await lora_B.data());
  }
  assertEquals(all.at(-1), last);
  const other = addWeightedAdapter(model, { ...options, seed: 5 });
  assert((await leavesOf(other).at(-1)!.lora_B.data() as Float32Array).join() !== last.join());
});

Deno.test("the model that adapters are combined in stays as it is", async () => {
  const model = await loadSet("plain");
  const names = [...model.adapters.keys()];
  const options = { adapters: ["a", "b"], weights: [1, 1], adapterName: "c2" };
  const more = addWeightedAdapter(model, options);
  assertEquals([...model.adapters.keys()], names);
  assertEquals([...more.adapters.keys()], [...names, "c2"]);
  assertEquals(deleteAdapter(more, "c2").adapters.size, names.length);
  for (const name of names) assert(more.adapters.get(name) === model.adapters.get(name));
});

Deno.test("adapters that cannot be combined are told", async () => {
  const model = await loadSet("ranks");
  const options = { adapters: ["a", "b"], weights: [1, 1], adapterName: "c" };
  const changed = (name: string, change: (adapter: Adapter) => Partial<Adapter>): PeftModel => ({
    ...model,
    adapters: new Map([...model.adapters].map(([key, adapter]) => [
      key,
      key === name ? { ...adapter, ...change(adapter) } : adapter,
    ])),
  });
  const mine = changed("b", ({ method, config }) => ({
    method: { ...method, name: "mine", config: { ...method.config, peftType: "MINE" } },
    config: { ...config, peftType: "MINE" },
  }));
  const ruleless = changed("a", ({ method }) => ({ method: { ...method, combine: undefined } }));
  assertThrows(
    () => addWeightedAdapter(mine, options),
    UnsupportedError,
    '"a" is LORA and "b" is MINE',
  );
  assertThrows(
    () => addWeightedAdapter(ruleless, options),
    UnsupportedError,
    "Adapters of the method LORA cannot be combined",
  );
  for (const weights of [[1, NaN], [1, "2"], 1]) {
    assertThrows(
      () => addWeightedAdapter(model, { ...options, weights: weights as number[] }),
      ValueError,
      "weight",
    );
  }
  assertThrows(
    () => addWeightedAdapter(model, { ...options, adapterName: "a.b" }),
    ValueError,
    "cannot name an adapter",
  );
  assertThrows(
    () => addWeightedAdapter(model, { ...options, combination_type: "cat" } as never),
    ValueError,
    "nearest: combinationType",
  );
  // One adapts a module that the other saves as a whole.
  const clash = await made(await goldenBase("llama"), {
    a: { target_modules: ["q_proj"], modules_to_save: ["lm_head"] },
    b: { target_modules: ["lm_head"] },
  });
  assertThrows(() => addWeightedAdapter(clash, options), UnsupportedError, "lm_head");
  assertThrows(
    () => addWeightedAdapter(getPeftModel(model.base, peftLora({})), options),
    ValueError,
  );
});
