import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import {
  type ConvertProgress,
  convertToLora,
  saveAsLora,
  supportsLoraConversion,
} from "../../../lib/adapters/lora/convert-to-lora.ts";
import { forward } from "../../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { adaptedPaths, mapLeaves } from "../../../lib/adapters/parts.ts";
import type { AnyModel, PeftModel } from "../../../lib/adapters/peft-model.ts";
import { setAdapter } from "../../../lib/adapters/select.ts";
import { GraftError, UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { defineModel } from "../../../lib/io/define-model.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors } from "../../../lib/io/safetensors.ts";
import { gloraConfig } from "../../../lib/methods/glora.ts";
import { type LoraConfig, loraConfig, loraShape } from "../../../lib/methods/lora/lora-config.ts";
import type { PeftConfig } from "../../../lib/methods/config.ts";
import { ia3Config } from "../../../lib/methods/ia3.ts";
import { oftConfig } from "../../../lib/methods/oft.ts";
import { defaultMethods } from "../../../lib/methods/mod.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { tanh } from "../../../lib/ops/elementwise.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { testDevice, testOnDevices } from "../../devices.ts";
import { inFolder, namesIn } from "../../io/folder.ts";
import { golden, goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";
import index from "../../golden/conversion/conversion.json" with { type: "json" };

const INPUT = { inputIds: [[3, 1, 4, 15, 9, 26, 5], [35, 8, 9, 7, 9, 32, 3]] };
const root = join(golden, "conversion");

async function logitsOf(model: AnyModel, inputIds: unknown = INPUT.inputIds) {
  const { logits } = await forward(model, { inputIds: inputIds as number[][] });
  return await toFloat32(logits);
}

/** The largest difference as a share of the largest number. */
function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assertEquals(a.length, b.length);
  const size = Math.max(...Array.from(b, Math.abs));
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]))) / size;
}

/** B·A of a site, from tensors under PEFT's keys. */
async function product(tensors: ReadonlyMap<string, Tensor>, path: string): Promise<Float64Array> {
  const [a, b] = ["A", "B"].map((x) => tensors.get(`base_model.model.${path}.lora_${x}.weight`)!);
  const [x, y] = [await toFloat32(a), await toFloat32(b)];
  const [rank, columns] = a.shape, rows = b.shape[0];
  assertEquals(b.shape, [rows, rank]);
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      for (let k = 0; k < rank; k++) out[i * columns + j] += y[i * rank + k] * x[k * columns + j];
    }
  }
  return out;
}

for (const { name, kind, config, results } of index.lora) {
  if (!defaultMethods.has(config.peft_type)) continue;
  testOnDevices(`golden conversion of ${name}`, async (device) => {
    const base = await goldenBase(kind, device);
    const model = await loadAdapter(base, join(root, name, "source"));
    const { tensors: expected } = await openSafetensors(join(root, name, "expected.safetensors"));
    const ids = expected.get("input_ids")!;
    assert(apart(await logitsOf(model, ids), await toFloat32(expected.get("source")!)) < 1e-4);
    assert(supportsLoraConversion(model));
    for (const [i, { rank, ranks }] of results.entries()) {
      const parts = await convertToLora(model, { rank });
      const ours = Object.fromEntries(parts.sites.map((site) => [site.path, site.rank]));
      assertEquals(ours, ranks as unknown as Record<string, number>);
      const { tensors } = await openSafetensors(join(root, name, `lora${i}.safetensors`));
      assertEquals([...parts.tensors.keys()].sort(), [...tensors.keys()].sort());
      for (const path of Object.keys(ours)) {
        const want = await product(tensors, path);
        assert(apart(await product(parts.tensors, path), want) < 1e-4, path);
        assertEquals(loraShape(parts.config, base.sites.get(path)!), { r: ours[path], scale: 1 });
      }
      const plain = await loadAdapter(base, parts);
      const wanted = await toFloat32(expected.get(`logits${i}`)!);
      assert(apart(await logitsOf(plain, ids), wanted) < 1e-4, `${rank}`);
    }
  });
}

Deno.test("what PEFT refuses is refused", async () => {
  const device = await testDevice("cpu");
  for (const { name, kind, config, rank, error } of index.refused) {
    if (rank === null || !defaultMethods.has(config.peft_type)) continue;
    const base = await goldenBase(kind, device);
    const asked = fromPeftJson({ task_type: "CAUSAL_LM", ...config });
    const model = getPeftModel(base, asked);
    if (name === "ia3") { // which changes weights, though not by a sum
      assert(supportsLoraConversion(model));
      continue;
    }
    const found = await assertRejects(() => convertToLora(model, { rank }), GraftError);
    const type = error!.type === "TypeError" ? UnsupportedError : ValueError;
    assert(found instanceof type, `${name}: ${found}`);
    assertEquals(supportsLoraConversion(model), type === ValueError, name);
  }
});

testOnDevices("a rank that is enough gives the same outputs, whatever the LoRA", async (device) => {
  const configs: [string, Partial<LoraConfig>, number][] = [
    ["llama", {
      r: 3,
      useDora: true,
      targetModules: ["q_proj", "o_proj"],
      rankPattern: { q_proj: 2 },
    }, 32],
    ["llama", { r: 3, initLoraWeights: "pissa", loraAlpha: 5 }, 6],
    ["llama", { r: 2, initLoraWeights: "olora", useRslora: true }, 4],
    ["llama", {
      r: 4,
      targetModules: ["embed_tokens", "q_proj"],
      excludeModules: ["layers.1.self_attn.q_proj"],
    }, 4],
    ["gpt2", { r: 3, targetModules: ["wte", "c_attn"], trainableTokenIndices: { wpe: [1, 3] } }, 3],
    ["llama_tied", { r: 2, targetModules: ["embed_tokens"], ensureWeightTying: true }, 2],
    ["llama_tied", { r: 2, modulesToSave: ["embed_tokens"], ensureWeightTying: true }, 2],
    ["gpt2", {
      r: 5,
      targetModules: ["c_fc"],
      modulesToSave: ["ln_f"],
      layersToTransform: [1],
      layersPattern: "h",
    }, 5],
  ];
  for (const [kind, fields, rank] of configs) {
    const config = loraConfig({ taskType: "CAUSAL_LM", revision: "v1", ...fields });
    const base = await goldenBase(kind, device);
    const model = await randomized(getPeftModel(base, config));
    const parts = await convertToLora(model, { rank });
    assert(parts.sites.every((site) => site.relativeError < 1e-3 && site.rank === rank));
    assertEquals(
      [parts.config.taskType, parts.config.revision, parts.config.useDora],
      ["CAUSAL_LM", "v1", false],
    );
    const plain = await loadAdapter(base, parts);
    assertEquals(
      [...adaptedPaths(plain.adapters.get("default")!)].sort(),
      [...adaptedPaths(model.adapters.get("default")!)].sort(),
    );
    const [want, got, none] = [await logitsOf(model), await logitsOf(plain), await logitsOf(base)];
    assert(apart(none, want) > 1e-2, "the adapter changes something");
    assert(apart(got, want) < 1e-4, `${kind} ${JSON.stringify(fields)}: ${apart(got, want)}`);
  }
});

testOnDevices("what changes weights otherwise is converted by the difference", async (device) => {
  const cases: [string, PeftConfig, number][] = [
    [
      "llama",
      ia3Config({ targetModules: ["k_proj", "v_proj"], feedforwardModules: ["k_proj"] }),
      16,
    ],
    // Biases change with the outputs.
    ["gpt2", ia3Config({ targetModules: ["c_attn", "c_fc"], feedforwardModules: [] }), 32],
    [
      "qwen2",
      ia3Config({ targetModules: ["q_proj", "o_proj"], feedforwardModules: ["o_proj"] }),
      32,
    ],
    ["llama", oftConfig({ oftBlockSize: 4, targetModules: ["q_proj", "up_proj"] }), 32],
  ];
  for (const [kind, config, rank] of cases) {
    const base = await goldenBase(kind, device);
    const model = await randomized(getPeftModel(base, config));
    const parts = await convertToLora(model, { rank });
    const [want, none] = [await logitsOf(model), await logitsOf(base)];
    assert(apart(none, want) > 1e-2, "the adapter changes something");
    const far = apart(await logitsOf(await loadAdapter(base, parts)), want);
    assert(far < 1e-4, `${config.peftType} on ${kind}: ${far}`);
    assertEquals(parts.config.loraBias, kind !== "llama");
    // A rank that is not enough leaves out what it says, of which the bias is no part.
    const { sites } = await convertToLora(model, { rank: 0.5 });
    assert(
      sites.every(({ relativeError }) => relativeError > 0 && relativeError ** 2 <= 0.5 + 1e-6),
    );
  }
});

testOnDevices("convolutions are converted, but for those with groups", async (device) => {
  const base = await defineModel({
    inputs: { image: { axes: ["batch", 4, 5, 5] } },
    modules(m) {
      const patch = m.conv("patch", { in: 4, out: 6, kernel: [3, 2] }, { stride: 2, padding: 1 });
      const point = m.conv("point", { in: 6, out: 6, kernel: [1, 1] });
      const apart = m.conv("apart", { in: 6, out: 6, kernel: [1, 1] }, { groups: 2 });
      return ({ image }) => ({ y: apart(point(tanh(patch(image)))) });
    },
  }, { device });
  const image = tensor(Float32Array.from({ length: 200 }, (_, i) => Math.sin(i)), {
    shape: [2, 4, 5, 5],
  });
  const run = async (model: AnyModel) =>
    await toFloat32((await forward<{ y: Tensor }>(model, { image })).y);
  for (
    const config of [
      loraConfig({ r: 3, useDora: true, targetModules: ["patch"] }),
      ia3Config({ targetModules: ["patch"], feedforwardModules: [] }),
      oftConfig({ oftBlockSize: 3, targetModules: ["point"] }),
    ]
  ) {
    const model = await randomized(getPeftModel(base, config));
    const parts = await convertToLora(model, { rank: 6 });
    assert(apart(await run(base), await run(model)) > 1e-2);
    assert(apart(await run(await loadAdapter(base, parts)), await run(model)) < 1e-4);
  }
  const grouped = getPeftModel(base, loraConfig({ r: 2, targetModules: ["apart"] }));
  assertEquals(supportsLoraConversion(grouped), false);
  await assertRejects(() => convertToLora(grouped, { rank: 1 }), UnsupportedError);
});

Deno.test("the adapter is chosen by name, its factor counts, and the model stays", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const first = getPeftModel(base, loraConfig({ r: 2 }));
  const config = loraConfig({ r: 3, targetModules: ["o_proj"], initLoraWeights: false });
  const model = addAdapter(first, "style", config, { seed: 3 });
  const told: ConvertProgress[] = [];
  const parts = await convertToLora(model, {
    rank: 3,
    adapterName: "style",
    onProgress: (progress) => told.push(progress),
  });
  const [one, two] = ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"];
  assertEquals(told, [{ path: one, done: 1, total: 2 }, { path: two, done: 2, total: 2 }]);
  assertEquals(parts.config.targetModules, ["o_proj"]);
  assertEquals([[...model.adapters.keys()], model.active], [["default", "style"], ["default"]]);
  const both = await loadAdapter(model, parts, { adapterName: "plain" });
  const logits = (name: string) => logitsOf(setAdapter(both, name));
  assert(apart(await logits("plain"), await logits("style")) < 1e-5);

  const scaled = { ...model, multipliers: new Map([["style", -0.5]]) } as PeftModel;
  const half = await convertToLora(scaled, { rank: 3, adapterName: "style" });
  const [whole, part] = [await product(parts.tensors, one), await product(half.tensors, one)];
  assert(apart(part, whole.map((x) => -0.5 * x)) < 1e-5);

  // Zero everywhere: a LoRA has one direction at least.
  const zero = await convertToLora(model, { rank: 0.5 });
  assertEquals(zero.sites.map(({ rank, relativeError }) => [rank, relativeError]), [
    [1, 0],
    [1, 0],
    [1, 0],
    [1, 0],
  ]);
  assert((await product(zero.tensors, "model.layers.0.self_attn.q_proj")).every((x) => x === 0));
});

Deno.test("the share of the energy that is kept is what was asked for", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = loraConfig({ r: 16, targetModules: ["down_proj"] });
  const model = await randomized(getPeftModel(base, config));
  let last = 0;
  for (const share of [0.01, 0.3, 0.6, 0.9, 0.999999]) {
    const { sites } = await convertToLora(model, { rank: share });
    for (const { relativeError, rank } of sites) {
      assert(relativeError ** 2 <= 1 - share + 1e-7, `${share}`);
      const { sites: less } = rank > 1
        ? await convertToLora(model, { rank: rank - 1 })
        : { sites: [{ relativeError: 1 }] };
      assert(Math.max(...less.map((site) => site.relativeError)) ** 2 > 1 - share, `${share}`);
    }
    assert(sites[0].rank >= last && sites[0].rank <= 16);
    last = sites[0].rank;
  }
  assertEquals(last, 16);
});

Deno.test("a converted adapter is saved into the folder itself, in files that PEFT reads", () =>
  inFolder(async (folder) => {
    const base = { ...await goldenBase("llama", await testDevice("cpu")), source: "some/base" };
    const config = loraConfig({ r: 3, useDora: true, taskType: "CAUSAL_LM" });
    const model = await randomized(getPeftModel(base, config, { adapterName: "fine" }));
    const out = join(folder, "new", "out");
    const sites = await saveAsLora(model, out, { rank: 8, adapterName: "fine" });
    assertEquals(sites.length, 4);
    assertEquals(namesIn(out), ["README.md", "adapter_config.json", "adapter_model.safetensors"]);
    const json = await readJsonFile(join(out, "adapter_config.json"));
    assertEquals([json.r, json.lora_alpha, json.use_dora, json.base_model_name_or_path], [
      8,
      8,
      false,
      "some/base",
    ]);
    const { metadata, tensors } = await openSafetensors(join(out, "adapter_model.safetensors"));
    assertEquals([metadata.format, tensors.size], ["pt", 8]);
    await assertRejects(() => saveAsLora(model, join(folder, "no"), { rank: 999 }), ValueError);
    assertEquals(namesIn(folder), ["new"]);
  }));

Deno.test("what a delta adds to biases becomes biases of the LoRA", async () => {
  const base = await goldenBase("qwen2", await testDevice("cpu"));
  const config = gloraConfig({ r: 3, configDE: "vector", targetModules: ["q_proj", "o_proj"] });
  const model = await randomized(getPeftModel(base, config));
  const parts = await convertToLora(model, { rank: 32 });
  assert(parts.config.loraBias);
  assert(apart(await logitsOf(await loadAdapter(base, parts)), await logitsOf(model)) < 1e-4);
});

Deno.test("misuse of convertToLora is told", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const model = getPeftModel(base, loraConfig({ r: 2, initLoraWeights: false }));
  // deno-lint-ignore no-explicit-any -- wrong types are the point
  const convert = (options: any, of: any = model) => convertToLora(of, options);
  const cases: [string, () => Promise<unknown>][] = [
    ["CONVERT_RANK", () => convert({})],
    ["CONVERT_RANK", () => convert({ rank: -1 })],
    ["CONVERT_RANK", () => convert({ rank: NaN })],
    ["CONVERT_RANK", () => convert({ rank: "8" })],
    ["CONVERT_RANK", () => convert({ rank: 2.5 })],
    ["CONVERT_OPTION", () => convert({ rank: 2, adapter: "default" })],
    ["CONVERT_OPTION", () => convert(undefined)],
    ["CONVERT_OPTION", () => convert({ rank: 2, onProgress: true })],
    ["ADAPTER_UNKNOWN", () => convert({ rank: 2, adapterName: "defualt" })],
    ["NOT_PEFT", () => convert({ rank: 2 }, base)],
  ];
  for (const [code, misuse] of cases) {
    assertEquals((await assertRejects(misuse, GraftError)).code, code);
  }
  const biased = getPeftModel(base, loraConfig({ r: 2, loraBias: true }));
  assertEquals(
    (await assertRejects(() => convert({ rank: 2 }, biased), ValueError)).code,
    "CONVERT_BIAS",
  );
  const adapter = model.adapters.get("default")!, [path] = adaptedPaths(adapter);
  const parts = mapLeaves(
    adapter.parts,
    (old, { id, name }) =>
      id === path && name === "lora_A"
        ? tensor(new Float32Array(2 * 32).fill(NaN), { shape: old.shape })
        : old,
  );
  const broken: PeftModel = { ...model, adapters: new Map([["default", { ...adapter, parts }]]) };
  const error = await assertRejects(() => convert({ rank: 1 }, broken), ValueError, path);
  assertEquals(error.code, "CONVERT_NOT_FINITE");
});
