import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { compressAdapter, scaleAdapter } from "../../../lib/adapters/combine/adapter-algebra.ts";
import { castAdapterDtype } from "../../../lib/adapters/cast-adapter.ts";
import { forward } from "../../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import {
  mergeAdapter,
  mergeAndUnload,
  unload,
  unmergeAdapter,
} from "../../../lib/adapters/merge/merge.ts";
import type { AnyModel, PeftModel } from "../../../lib/adapters/peft-model.ts";
import { withAdapterScale } from "../../../lib/adapters/scope.ts";
import { deleteAdapter, disableAdapters, setAdapter } from "../../../lib/adapters/select.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../../lib/adapters/checkpoint/state-dict.ts";
import type { Device } from "../../../lib/device/device.ts";
import { UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { byteTokenizerFiles } from "../../../lib/io/byte-tokenizer.ts";
import { createModel, loadModel } from "../../../lib/io/load-model.ts";
import { tokenizerOf } from "../../../lib/io/model-tokenizer.ts";
import { saveModel } from "../../../lib/io/save-model.ts";
import { loadTokenizer } from "../../../lib/io/tokenizer.ts";
import { ia3Config } from "../../../lib/methods/ia3.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { defaultMethods, type MethodRegistry } from "../../../lib/methods/mod.ts";
import type { SiteCall } from "../../../lib/methods/site-rule.ts";
import { createTorchRandom } from "../../../lib/methods/torch-random.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import { castTensor, float32ToBits, toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { testOnDevices } from "../../devices.ts";
import { goldenBase, peftLora } from "../bases.ts";
import { randomized } from "../randomized.ts";

const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };

async function logitsOf(model: AnyModel): Promise<Float32Array> {
  return await toFloat32((await forward(model, INPUTS)).logits);
}

/** The largest difference as a share of the largest logit. */
async function apart(a: AnyModel, b: AnyModel): Promise<number> {
  const [x, y] = [await logitsOf(a), await logitsOf(b)];
  return Math.max(...x.map((v, i) => Math.abs(v - y[i]))) / Math.max(...y.map(Math.abs));
}

async function assertMerges(model: PeftModel): Promise<ModelGraph> {
  const merged = mergeAndUnload(model);
  assert(await apart(model, model.base) > 1e-3, "the adapter changes something");
  assert(await apart(merged, model) < 2e-5, `merged: ${await apart(merged, model)}`);
  return merged;
}

testOnDevices("several adapters merge in turn, scaled as they are", async (device) => {
  const base = await goldenBase("gpt2", device);
  const one = getPeftModel(
    base,
    loraConfig({ r: 3, targetModules: ["c_attn", "wte"], bias: "lora_only" }),
  );
  const two = addAdapter(
    one,
    "two",
    loraConfig({
      r: 2,
      useDora: true,
      targetModules: ["c_attn", "c_fc"],
      trainableTokenIndices: [9, 5],
    }),
  );
  const model = setAdapter(await randomized(two), ["default", "two"]);
  await assertMerges(model);
  await assertMerges(setAdapter(model, ["two", "default"]));
  await assertMerges(setAdapter(model, "two"));
  const named = mergeAndUnload(model, { adapterNames: ["two"] });
  assert(await apart(named, setAdapter(model, "two")) < 2e-5);
  await withAdapterScale(model, -0.5, assertMerges);
});

testOnDevices("tied weights part only where one of them changes", async (device) => {
  const base = await goldenBase("llama_tied", device);
  const merge = async (config: Record<string, unknown>) => {
    const complete = peftLora({ target_modules: ["o_proj"], r: 3, ...config });
    return await assertMerges(await randomized(getPeftModel(base, complete)));
  };
  for (const target of ["embed_tokens", "lm_head"]) {
    const merged = await merge({ target_modules: [target] });
    assertEquals(merged.tied.size, 0);
    assertEquals(merged.config.tie_word_embeddings, false);
    assert(merged.parameters.has("lm_head.weight"));
    // The other of the two is still the base's own.
    const other = target === "lm_head" ? "model.embed_tokens.weight" : "lm_head.weight";
    assert(merged.parameters.get(other) === base.parameters.get("model.embed_tokens.weight"));
  }
  assertEquals((await merge({ modules_to_save: ["lm_head"] })).tied.size, 0);
  assertEquals((await merge({ trainable_token_indices: { lm_head: [5] } })).tied.size, 0);
  for (
    const config of [
      { modules_to_save: ["lm_head"], ensure_weight_tying: true },
      { trainable_token_indices: [5, 60] },
      {},
    ]
  ) {
    const merged = await merge(config);
    assertEquals([...merged.tied], [["lm_head.weight", "model.embed_tokens.weight"]]);
    assert(!merged.parameters.has("lm_head.weight"));
    assert(merged.config === base.config);
  }
});

testOnDevices("a merged model is the same when it was saved and read", async (device) => {
  const cases: [string, Record<string, unknown>][] = [
    ["llama_tied", { target_modules: ["embed_tokens"] }],
    ["llama_tied", { target_modules: ["lm_head"] }],
    ["llama_tied", { target_modules: ["embed_tokens", "q_proj"], ensure_weight_tying: true }],
    ["llama_tied", { target_modules: ["lm_head"], ensure_weight_tying: true, use_dora: true }],
    ["llama_tied", { target_modules: ["o_proj"], modules_to_save: ["embed_tokens"] }],
    ["llama_tied", { target_modules: ["o_proj"], trainable_token_indices: { lm_head: [5] } }],
    ["llama_tied", { target_modules: ["o_proj"], trainable_token_indices: [5] }],
    ["gpt2", { target_modules: ["wte", "wpe"] }],
  ];
  for (const [kind, fields] of cases) {
    const base = await goldenBase(kind, device);
    const model = await randomized(
      getPeftModel(base, peftLora({ r: 3, lora_alpha: 5, ...fields })),
    );
    const merged = await assertMerges(model);
    const folder = await Deno.makeTempDir();
    await saveModel(merged, folder, { tokenizer: false });
    const again = await loadModel(folder, { device });
    assertEquals(await logitsOf(again), await logitsOf(merged), JSON.stringify(fields));
    assertEquals(again.tied.size, merged.tied.size);
    await Deno.remove(folder, { recursive: true });
  }
});

testOnDevices("an untied model keeps its tokenizer", async (device) => {
  const folder = await Deno.makeTempDir();
  const tokenizer = await loadTokenizer(byteTokenizerFiles());
  const tied = await createModel({
    model_type: "llama",
    vocab_size: 256,
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    tie_word_embeddings: true,
  }, { device, seed: 3 });
  await saveModel(tied, folder, { tokenizer });
  const base = await loadModel(folder, { device });
  const model = getPeftModel(base, loraConfig({ targetModules: ["lm_head"] }));
  const merged = mergeAndUnload(model);
  assertEquals(merged.tied.size, 0);
  assertEquals((await tokenizerOf(merged)).encode("hi"), [104, 105]);
  await Deno.remove(folder, { recursive: true });
});

testOnDevices("merged adapters stay in the model and come out again", async (device) => {
  const base = await goldenBase("llama", device);
  const config = { loraAlpha: 7, targetModules: ["q_proj", "up_proj"] };
  const one = getPeftModel(base, loraConfig({ r: 3, ...config }));
  const two = addAdapter(one, "two", loraConfig({ r: 2, targetModules: ["q_proj", "v_proj"] }));
  const model = setAdapter(await randomized(two), "default");
  const start = await logitsOf(base);
  const adapted = await logitsOf(model);

  const merged = mergeAdapter(model);
  assertEquals(merged.merged?.names, ["default"]);
  assert(merged.merged?.base === base && merged.adapters === model.adapters);
  assertEquals(merged.active, ["default"]);
  assert(await apart(merged, model) < 2e-5);
  assert(mergeAdapter(merged) === merged, "what is merged is not merged twice");
  assert(mergeAdapter(merged, { adapterNames: ["default"] }) === merged);

  const back = unmergeAdapter(merged);
  assert(back.base === base && back.merged === undefined);
  assertEquals(await logitsOf(back), adapted);
  assert(unmergeAdapter(back) === back);
  for (const other of [setAdapter(merged, "default"), deleteAdapter(merged, "two")]) {
    assert(other.base === base && other.merged === undefined);
  }
  assertEquals(await logitsOf(disableAdapters(merged)), start);
  assert(unload(merged) === base);
  assertEquals(await logitsOf(base), start);
});

testOnDevices("adapters are merged on top of merged ones", async (device) => {
  const base = await goldenBase("llama", device);
  const dora = { r: 2, useDora: true, targetModules: ["q_proj", "v_proj"] };
  const one = getPeftModel(base, loraConfig({ r: 3, targetModules: ["q_proj", "up_proj"] }));
  const two = addAdapter(one, "two", loraConfig(dora));
  const three = addAdapter(two, "three", loraConfig({ r: 1, targetModules: ["q_proj"] }));
  const all = await randomized(three);
  const pair = setAdapter(all, ["default", "two"]);

  // What is merged does not show in what DoRA measures of the weight.
  const below = mergeAdapter(pair, { adapterNames: ["default"] });
  assert(await apart(below, pair) < 2e-5);

  // The rest of the active ones takes part on top of what is merged.
  const plain = setAdapter(all, ["default", "three"]);
  const half = mergeAdapter(plain, { adapterNames: ["default"] });
  assert(await apart(half, plain) < 2e-5);
  assert(await apart(setAdapter(all, "default"), plain) > 1e-3);

  const both = mergeAdapter(half);
  assertEquals(both.merged?.names, ["default", "three"]);
  assert(both.merged?.base === base);
  assert(await apart(both, plain) < 2e-5);
  assertEquals(await logitsOf(both), await logitsOf(mergeAdapter(plain)), "nothing rounded twice");

  // A name that is not active is merged all the same, in the order of merging.
  const first = mergeAdapter(setAdapter(all, "default"));
  const more = mergeAdapter(first, { adapterNames: ["two"] });
  assertEquals(more.merged?.names, ["default", "two"]);
  assertEquals(more.active, ["default"]);
  assert(await apart(more, pair) < 2e-5);
  assert(await apart(mergeAndUnload(more), pair) < 2e-5);
  assert(
    await apart(mergeAndUnload(mergeAdapter(pair, { adapterNames: ["default"] })), pair) < 2e-5,
  );
  assert(unmergeAdapter(more).base === base);

  // Once merged, a smaller type is applied to what was computed in f32.
  const small = mergeAdapter(more, { adapterNames: ["two"], dtype: "bf16" });
  const name = "model.layers.0.self_attn.q_proj.weight";
  assertEquals(small.base.parameters.get(name)!.dtype, "bf16");
  const rounded = castTensor(more.base.parameters.get(name)!, "bf16");
  assertEquals(await small.base.parameters.get(name)!.data(), await rounded.data());
});

testOnDevices("DoRA scales what others made of a bias, merged or not", async (device) => {
  const base = await goldenBase("gpt2", device);
  const targets = { targetModules: ["c_attn"] };
  const all = await randomized(
    addAdapter(
      addAdapter(
        getPeftModel(base, loraConfig({ r: 2, loraBias: true, ...targets })),
        "factors",
        ia3Config({ ...targets, feedforwardModules: [] }),
      ),
      "dora",
      loraConfig({ r: 3, useDora: true, ...targets }),
    ),
  );
  for (const active of [["factors", "dora"], ["default", "dora"], ["default", "factors", "dora"]]) {
    const model = setAdapter(all, active);
    await assertMerges(model);
    const some = mergeAdapter(model, { adapterNames: active.slice(0, -1) });
    assert(await apart(some, model) < 2e-5, `${active}: ${await apart(some, model)}`);
  }
});

Deno.test("what stays active must not replace what is merged", async () => {
  const base = await goldenBase("qwen2");
  const targets = ["q_proj", "lm_head"];
  const model = addAdapter(
    addAdapter(
      getPeftModel(base, loraConfig({ targetModules: targets })),
      "saved",
      loraConfig({ modulesToSave: ["lm_head"] }),
    ),
    "biases",
    loraConfig({ targetModules: ["v_proj"], bias: "lora_only" }),
  );
  const error = assertThrows(
    () => mergeAdapter(setAdapter(model, ["default", "saved"]), { adapterNames: ["default"] }),
    ValueError,
    "lm_head.weight",
  );
  assertEquals(error.code, "ADAPTERS_CLASH");
  mergeAdapter(setAdapter(model, ["default", "saved"]));
  mergeAdapter(setAdapter(model, ["default", "biases"]), { adapterNames: ["default"] });
});

Deno.test("adapters join merged ones, and take them out where they replace one", async () => {
  const base = await goldenBase("llama");
  const config = loraConfig({ r: 3, initLoraWeights: false });
  const one = getPeftModel(base, config);
  const merged = mergeAdapter(one);
  const tensors = getAdapterStateDict(one);
  const joined: Readonly<Record<string, PeftModel>> = {
    addAdapter: addAdapter(merged, "two", config),
    loadAdapter: await loadAdapter(merged, { config, tensors }, { adapterName: "two" }),
    scaleAdapter: scaleAdapter(merged, "default", { factor: 2, as: "two" }),
  };
  for (const [name, model] of Object.entries(joined)) {
    assertEquals(model.merged?.names, ["default"], name);
    assert(model.base === merged.base, name);
  }
  const replaced: Readonly<Record<string, PeftModel>> = {
    scaleAdapter: scaleAdapter(merged, "default", { factor: 2 }),
    compressAdapter: (await compressAdapter(merged, "default", { rank: 1 })).model,
    castAdapterDtype: castAdapterDtype(merged, { dtype: "bf16" }),
    setAdapterStateDict: (await setAdapterStateDict(merged, tensors)).model,
  };
  for (const [name, model] of Object.entries(replaced)) {
    assertEquals(model.merged, undefined, name);
    assert(model.base === base, name);
  }
});

testOnDevices("the base, and what no adapter touches, is shared and unchanged", async (device) => {
  const base = await goldenBase("llama", device);
  const before = await logitsOf(base);
  const model = await randomized(getPeftModel(base, loraConfig({ targetModules: ["q_proj"] })));
  const merged = await assertMerges(model);
  const changed = [...base.parameters].filter(([name, t]) => merged.parameters.get(name) !== t);
  assertEquals(
    changed.map(([name]) => name),
    [0, 1].map((i) => `model.layers.${i}.self_attn.q_proj.weight`),
  );
  assert(unload(model) === base);
  assertEquals(await logitsOf(base), before);
  assertEquals(merged.source, null);
  assert(merged.config === base.config);
});

testOnDevices("a merged model can be adapted and merged again", async (device) => {
  const base = await goldenBase("llama", device);
  const first = await randomized(getPeftModel(base, loraConfig({ targetModules: "all-linear" })));
  const merged = mergeAndUnload(first);
  const config = loraConfig({
    r: 2,
    initLoraWeights: "pissa",
    targetModules: ["q_proj"],
    modulesToSave: ["layers.1.mlp.up_proj"],
  });
  // Nothing of the merged model has been computed yet when its weights are decomposed and copied.
  const fresh = getPeftModel(merged, config);
  assert(await apart(fresh, merged) < 2e-5);
  await assertMerges(await randomized(fresh));
});

testOnDevices("block-quantized weights are merged in f32", async (device) => {
  const plain = await goldenBase("llama", device);
  const name = "model.layers.0.self_attn.q_proj.weight";
  const random = createTorchRandom(1);
  const blocks = new Uint8Array(32 * 34);
  for (let row = 0; row < 32; row++) {
    const [scale] = float32ToBits(Float32Array.of(0.001 * (row + 1)), "f16");
    blocks.set([scale & 255, scale >> 8], row * 34);
    blocks.set(random.normal(32, { std: 40 }).map((x) => Math.round(x) & 255), row * 34 + 2);
  }
  const quantized = tensor(blocks, { dtype: "q8_0", shape: [32, 32] });
  const base = { ...plain, parameters: new Map(plain.parameters).set(name, quantized) };
  const config = loraConfig({ targetModules: ["q_proj"], useDora: true });
  const merged = await assertMerges(await randomized(getPeftModel(base, config)));
  assertEquals(merged.parameters.get(name)!.dtype, "f32");
});

testOnDevices("merged weights can be stored in 16 bits", async (device) => {
  const base = await goldenBase("llama", device);
  const model = await randomized(getPeftModel(base, loraConfig()));
  const merged = mergeAndUnload(model, { dtype: "bf16" });
  assertEquals(merged.parameters.get("model.layers.0.self_attn.v_proj.weight")!.dtype, "bf16");
  assertEquals(merged.parameters.get("model.norm.weight")!.dtype, "bf16");
  const difference = await apart(merged, model);
  assert(difference > 1e-6 && difference < 2e-2, `${difference}`);
});

testOnDevices("sites of one shape share one program", async (device: Device) => {
  const base = await goldenBase("llama", device);
  const config = loraConfig({ r: 7, targetModules: ["gate_proj", "up_proj"] });
  const merged = mergeAndUnload(await randomized(getPeftModel(base, config)));
  const read = async (layer: number, name: string) => {
    await merged.parameters.get(`model.layers.${layer}.mlp.${name}.weight`)!.data();
    return device.memory().pipelinesCreated;
  };
  const first = await read(0, "gate_proj");
  assertEquals(await read(0, "up_proj"), first);
  assertEquals(await read(1, "gate_proj"), first);
});

testOnDevices("what cannot be merged says so", async (device) => {
  const base = await goldenBase("llama", device);
  const biased = getPeftModel(base, loraConfig({ loraBias: true }));
  assertThrows(() => mergeAndUnload(biased), UnsupportedError, "loraBias");

  const lora = defaultMethods.get("LORA")!;
  const forwardOnly = { forward: (_: unknown, { result }: SiteCall) => result };
  const registry: MethodRegistry = new Map([
    ["LORA", { ...lora, sites: () => ({ linear: forwardOnly }) }],
  ]);
  const unmergeable = getPeftModel(base, loraConfig(), { registry });
  const error = assertThrows(() => mergeAndUnload(unmergeable), UnsupportedError);
  assertEquals(error.code, "MERGE_METHOD");

  const model = getPeftModel(base, loraConfig());
  assertThrows(() => mergeAndUnload(disableAdapters(model)), ValueError, "disabled");
  assertThrows(() => mergeAndUnload({ ...model, active: [] }), ValueError, "no adapter");
  assertThrows(() => mergeAndUnload(model, { adapterNames: ["other"] }), ValueError, "other");
  assertThrows(() => mergeAndUnload(model, { adapterNames: [] }), ValueError, "empty");
  assertThrows(() => mergeAdapter(disableAdapters(model)), ValueError, "disabled");
  const off = () => mergeAdapter(disableAdapters(model), { adapterNames: ["default"] });
  assertThrows(off, ValueError, "disabled");
  assertThrows(() => mergeAdapter(model, { adapterNames: "default" as never }), ValueError, "list");
  assertThrows(() => unmergeAdapter(base as never), ValueError, "adapters is needed");

  const flaky = { ...base.parameters.get("model.layers.0.self_attn.q_proj.weight")! };
  const failing: Tensor = { ...flaky, data: () => Promise.reject(new Error("unplugged")) };
  const parameters = new Map(base.parameters).set(
    "model.layers.0.self_attn.q_proj.weight",
    failing,
  );
  const merged = mergeAndUnload(getPeftModel({ ...base, parameters }, loraConfig()));
  await assertRejects(() => forward(merged, INPUTS), Error, "unplugged");
});
