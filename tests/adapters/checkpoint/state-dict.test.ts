import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../../lib/adapters/leaves.ts";
import { partsOfKind } from "../../../lib/adapters/parts.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../../lib/adapters/checkpoint/state-dict.ts";
import { CheckpointError, ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors } from "../../../lib/io/safetensors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { castTensor, toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { golden, goldenBase, peftLora } from "../bases.ts";
import cases from "../../golden/cases.json" with { type: "json" };

const Q0 = "base_model.model.model.layers.0.self_attn.q_proj";

Deno.test("keys and shapes are PEFT's", async () => {
  for (const { name, kind, adapters } of cases.lora) {
    const record = await readJsonFile(`${golden}lora/${name}/case.json`);
    if (record.converted) continue; // what was saved is not what was asked for
    const asked = adapters.length ? record.adapters : { default: record.config };
    for (const [adapterName, config] of Object.entries(asked as Record<string, never>)) {
      const folder = adapters.length ? `${name}/${adapterName}` : name;
      const model = getPeftModel(await goldenBase(kind), peftLora(config), { adapterName });
      const file = await openSafetensors(`${golden}lora/${folder}/adapter_model.safetensors`);
      const show = (tensors: Iterable<[string, Tensor]>) =>
        [...tensors].map(([key, { shape }]) => `${key} [${shape}]`).sort();
      assertEquals(show(getAdapterStateDict(model, adapterName)), show(file.tensors), folder);
    }
  }
});

Deno.test("saveEmbeddingLayers says whether the embeddings' weights are saved along", async () => {
  const base = await goldenBase("llama");
  const keys = (targetModules: string[], saveEmbeddingLayers: boolean | "auto") =>
    [
      ...getAdapterStateDict(getPeftModel(base, loraConfig({ targetModules })), "default", {
        saveEmbeddingLayers,
      }).keys(),
    ].filter((key) => !key.includes("lora_")).map((key) => key.replace("base_model.model.", ""));
  assertEquals(keys(["embed_tokens"], "auto"), ["model.embed_tokens.base_layer.weight"]);
  assertEquals(keys(["embed_tokens"], false), []);
  assertEquals(keys(["model.embed_tokens"], "auto"), []);
  assertEquals(keys(["model.embed_tokens"], true), [
    "model.embed_tokens.base_layer.weight",
    "lm_head.weight",
  ]);
  assertEquals(keys(["q_proj"], true), ["model.embed_tokens.weight", "lm_head.weight"]);
});

Deno.test("tensors that were taken out can be put into another adapter", async () => {
  const base = await goldenBase("qwen2");
  const config = loraConfig({ r: 3, bias: "all", loraBias: true, modulesToSave: ["lm_head"] });
  const one = getPeftModel(base, config, { seed: 1 });
  const two = addAdapter(getPeftModel(base, config, { seed: 2 }), "other", config, { seed: 3 });
  const dict = getAdapterStateDict(one);
  const { model, report } = await setAdapterStateDict(two, dict, { adapterName: "other" });
  assertEquals([...report.applied].sort(), [...dict.keys()].sort());
  assertEquals([report.missing, report.unexpected, report.ignored], [[], [], []]);
  for (const [key, want] of dict) {
    const got = getAdapterStateDict(model, "other").get(key)!;
    assertEquals(await got.data(), await toFloat32(want), key);
  }
  // Neither model that went in has changed.
  assert(two.adapters.get("other") !== model.adapters.get("other"));
  assert(two.adapters.get("default") === model.adapters.get("default"));
});

Deno.test("what does not fit is named, with what is nearest", async () => {
  const model = getPeftModel(await goldenBase("llama"), loraConfig({ r: 3 }));
  const dict = new Map(getAdapterStateDict(model));
  const a = dict.get(`${Q0}.lora_A.weight`)!;
  dict.delete(`${Q0}.lora_A.weight`);
  dict.set(`${Q0}.lora_A.default.weight`, a);
  dict.set(`${Q0}.lora_B.weight`, tensor(new Float32Array(64), { shape: [32, 2] }));
  const error = await assertRejects(() => setAdapterStateDict(model, dict), CheckpointError);
  assertEquals(error.code, "ADAPTER_MISMATCH");
  assertStringIncludes(error.message, `missing ${Q0}.lora_A.weight`);
  assertStringIncludes(error.message, `nearest: ${Q0}.lora_A.default.weight`);
  assertStringIncludes(
    error.message,
    `${Q0}.lora_B.weight has shape [32,2], the model needs [32,3]`,
  );

  const { model: partly, report } = await setAdapterStateDict(model, dict, { strict: false });
  assertEquals(report.missing, [`${Q0}.lora_A.weight`]);
  assertEquals(report.unexpected, [`${Q0}.lora_A.default.weight`]);
  assertEquals(report.shapeMismatch, [
    { key: `${Q0}.lora_B.weight`, expected: [32, 3], found: [32, 2] },
  ]);
  assertEquals(report.applied.length, dict.size - 2);
  // What was not given keeps what it started from.
  const leaf = "a0.model.layers.0.self_attn.q_proj.lora_A";
  const [start, kept] = [model, partly].map((m) => trainableLeaves(m).get(leaf)!);
  assertEquals(await kept.data(), await start.data());
  await assertRejects(
    () => setAdapterStateDict(model, dict, { adapterName: "defualt" }),
    ValueError,
    "default",
  );
});

Deno.test("half-precision tensors become f32 and are reported", async () => {
  const model = getPeftModel(await goldenBase("llama"), loraConfig());
  const half = new Map(
    [...getAdapterStateDict(model)].map(([key, t]) => [key, castTensor(t, "bf16")]),
  );
  const { model: loaded, report } = await setAdapterStateDict(model, half);
  assertEquals(report.dtypeCast.length, half.size);
  assertEquals(report.dtypeCast[0].from, "bf16");
  for (const leaf of trainableLeaves(loaded).values()) assertEquals(leaf.dtype, "f32");
});

Deno.test("tied tensors must agree", async () => {
  for (
    const config of [
      { target_modules: ["o_proj"], modules_to_save: ["lm_head"] },
      { target_modules: ["embed_tokens"] },
    ]
  ) {
    const base = await goldenBase("llama_tied");
    const model = getPeftModel(base, peftLora({ ...config, ensure_weight_tying: true, r: 3 }));
    const dict = new Map(getAdapterStateDict(model));
    await setAdapterStateDict(model, dict);
    const key = [...dict.keys()].find((k) => k.includes("lm_head") && !k.includes("base_layer"))!;
    const values = (await toFloat32(dict.get(key)!)).slice();
    values[5] += 0.25;
    dict.set(key, tensor(values, { shape: dict.get(key)!.shape }));
    const error = await assertRejects(() => setAdapterStateDict(model, dict), CheckpointError);
    assertEquals(error.code, "ADAPTER_TIES");
  }
});

Deno.test("weights of the base in a file count only where they differ", async () => {
  const base = await goldenBase("llama");
  const model = getPeftModel(base, loraConfig({ targetModules: ["embed_tokens"] }));
  const dict = new Map(getAdapterStateDict(model));
  const same = await setAdapterStateDict(model, dict);
  assertEquals(partsOfKind(same.model.adapters.get("default")!, "parameter"), []);

  const key = "base_model.model.model.embed_tokens.base_layer.weight";
  const values = (await toFloat32(dict.get(key)!)).slice();
  values[40] = 3;
  dict.set(key, tensor(values, { shape: [61, 32] }));
  const { model: other } = await setAdapterStateDict(model, dict);
  const adapter = other.adapters.get("default")!;
  assertEquals(
    partsOfKind(adapter, "parameter").map(({ place, leaves }) => [place.name, leaves[""].kind]),
    [["model.embed_tokens.weight", "fixed"]],
  );
  // It is saved again, and not trained.
  assertEquals(await getAdapterStateDict(other).get(key)!.data(), values);
  assertEquals([...trainableLeaves(other).keys()], [
    "a0.model.embed_tokens.lora_embedding_A",
    "a0.model.embed_tokens.lora_embedding_B",
  ]);
});

Deno.test("what PiSSA and OLoRA leave of a head is neither saved nor read: it follows from the base", async () => {
  const base = await goldenBase("llama");
  const key = "base_model.model.lm_head.base_layer.weight";
  for (const initLoraWeights of ["pissa", "olora"] as const) {
    const config = loraConfig({ r: 2, targetModules: ["q_proj", "lm_head"], initLoraWeights });
    const model = getPeftModel(base, config);
    const dict = new Map(getAdapterStateDict(model));
    assert(!dict.has(key));
    dict.set(key, tensor(new Float32Array(61 * 32), { shape: [61, 32] }));
    const { model: loaded, report } = await setAdapterStateDict(model, dict);
    assertEquals(report.ignored, [key]);
    assertEquals(partsOfKind(loaded.adapters.get("default")!, "parameter"), []);
  }
});

Deno.test("copies that PEFT writes of saved biases are passed over", async () => {
  const base = await goldenBase("gpt2");
  const model = getPeftModel(base, loraConfig({ bias: "all", modulesToSave: ["ln_f"] }));
  const dict = new Map(getAdapterStateDict(model));
  const bias = dict.get("base_model.model.transformer.ln_f.bias")!;
  dict.set("base_model.model.transformer.ln_f.original_module.bias", bias);
  dict.set("base_model.model.transformer.ln_f.modules_to_save.bias", bias);
  const { report } = await setAdapterStateDict(model, dict);
  assertEquals(report.ignored.length, 2);
});
