import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { addWeightedAdapter } from "../../lib/adapters/combine/weighted-adapter.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { leavesOf } from "../../lib/adapters/parts.ts";
import { convertToLora } from "../../lib/adapters/lora/convert-to-lora.ts";
import { getDeltaWeight } from "../../lib/adapters/merge/delta-weight.ts";
import { mergeAdapter, mergeAndUnload, unmergeAdapter } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel, PeftModel } from "../../lib/adapters/peft-model.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { getLayerStatus } from "../../lib/adapters/status/status.ts";
import { getNbTrainableParameters } from "../../lib/adapters/status/trainable-parameters.ts";
import { architectureOf } from "../../lib/architectures/mod.ts";
import type { Device } from "../../lib/device/device.ts";
import { ConfigError, TargetError, UnsupportedError } from "../../lib/errors.ts";
import { generate } from "../../lib/generation/generate.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { writeSafetensors } from "../../lib/io/safetensors.ts";
import { ia3Config } from "../../lib/methods/ia3.ts";
import { type LoraConfig, loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { fromPeftJson } from "../../lib/methods/peft-json.ts";
import { createModelGraph, type ModelGraph, structureOf } from "../../lib/model/model-graph.ts";
import { castTensor, toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { testDevice, testOnceOnWebGpu } from "../devices.ts";
import { adamLosses, apart, differentiate, type LabelledBatch } from "../steps.ts";
import golden from "./target-parameters.golden.json" with { type: "json" };

type Fields = Readonly<Record<string, unknown>>;
type Shapes = Readonly<Record<string, readonly number[]>>;

interface Case {
  readonly name: string;
  readonly base: Fields;
  readonly config: Fields;
  readonly keys: Shapes;
  readonly saved: Fields;
  readonly begins: Readonly<Record<string, readonly number[]>>;
  readonly counts: readonly number[];
  readonly status: readonly (readonly [name: string, type: string])[];
  readonly logits: readonly number[];
  readonly gradients: Readonly<Record<string, readonly number[]>>;
  readonly losses: readonly number[];
  readonly merged: readonly number[];
}

const cases = golden.cases as unknown as readonly Case[];

/** The values of a parameter, as the script that wrote the golden file computes them. */
function fill(name: string, shape: readonly number[]): Tensor {
  const seed = [...name].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
  const size = shape.reduce((n, d) => n * d, 1);
  const values = Float32Array.from({ length: size }, (_, i) => 0.6 * Math.sin(1.3 * i + seed));
  return tensor(values, { shape });
}

function filled(shapes: Iterable<readonly [string, readonly number[]]>): Map<string, Tensor> {
  return new Map([...shapes].map(([name, shape]) => [name, fill(name, shape)]));
}

const parametersOf = (config: Fields) => {
  const architecture = architectureOf(config), kind = { architecture, config };
  const { shapes, tied } = structureOf({ ...kind, taskType: "CAUSAL_LM" });
  return { architecture, parameters: filled([...shapes].filter(([name]) => !tied.has(name))) };
};

function baseOf(config: Fields, device: Device): ModelGraph {
  const { architecture, parameters } = parametersOf(config);
  return createModelGraph(architecture, { config, parameters, device });
}

const rows = (of: readonly (readonly number[])[]) =>
  tensor(Int32Array.from(of.flat()), { shape: [of.length, of[0].length] });

const BATCH: LabelledBatch = {
  inputIds: rows(golden.batch.input_ids),
  attentionMask: rows(golden.batch.attention_mask),
  labels: rows(golden.batch.labels),
};

const LONG: LabelledBatch = {
  inputIds: rows(golden.long),
  attentionMask: rows(golden.long.map((row) => row.map(() => 1))),
  labels: rows(golden.long),
};

/** The last logits, of the short batch but for those of padding. */
async function logitsOf(model: AnyModel, batch = BATCH): Promise<Float32Array> {
  const { inputIds, attentionMask } = batch;
  const { logits } = await forward(model, { inputIds, attentionMask });
  return (await toFloat32(logits as Tensor)).slice(-130).subarray(0, 8 * 13);
}

const near = (got: ArrayLike<number>, want: readonly number[], what: string) => {
  const distance = apart(Array.from(got), want.slice(0, got.length));
  assert(distance < 2e-5, `${what}: ${distance}`);
};

const configOf = (fields: Fields) => fromPeftJson({ peft_type: "LORA", ...fields }) as LoraConfig;

async function adaptedOf({ base, config, keys }: Case, device: Device): Promise<PeftModel> {
  const model = getPeftModel(baseOf(base, device), configOf(config), { seed: golden.seed });
  return (await setAdapterStateDict(model, filled(Object.entries(keys)))).model;
}

for (const entry of cases) {
  testOnceOnWebGpu(`${entry.name} is adapted as by PEFT`, async (device) => {
    const fresh = getPeftModel(baseOf(entry.base, device), configOf(entry.config), {
      seed: golden.seed,
    });
    const dict = getAdapterStateDict(fresh);
    const shapes = Object.fromEntries([...dict].map(([key, { shape }]) => [key, shape]));
    assertEquals(shapes, entry.keys);
    for (const [key, values] of Object.entries(entry.begins)) {
      const begin = await toFloat32(dict.get(key)!);
      values.forEach((x, i) => assert(Math.abs(x - begin[i]) < 1e-6, key));
    }
    const { trainable, all } = getNbTrainableParameters(fresh);
    assertEquals([trainable, all], entry.counts);
    assertEquals(getLayerStatus(fresh).map((x) => [x.name, x.moduleType]), entry.status as never);
    const { config } = fresh.adapters.get("default")!, own = config as LoraConfig;
    const sorted = (names: unknown) => [...(names as string[] | null) ?? []].sort();
    assertEquals({
      target_modules: sorted(own.targetModules),
      target_parameters: sorted(own.targetParameters),
      rank_pattern: own.rankPattern,
      alpha_pattern: own.alphaPattern,
    }, entry.saved as never);

    const model = await adaptedOf(entry, device);
    const batch = entry.name.endsWith("long") ? LONG : BATCH;
    near(await logitsOf(model, batch), entry.logits, "logits");
    near(await logitsOf(mergeAndUnload(model), batch), entry.merged, "merged");
    const { grads } = await differentiate(model, batch);
    for (const { id, name, leaf } of leavesOf(model.adapters.get("default")!)) {
      const want = entry.gradients[leaf.key!];
      const all = grads.get(`a0.${id}.${name}`)!, step = Math.max(1, Math.floor(all.length / 40));
      near(all.filter((_, i) => i % step === 0), want, leaf.key!);
    }
    const options = { lr: golden.rate, weight_decay: golden.decay };
    const losses = await adamLosses(model, entry.losses.map(() => batch), options);
    losses.forEach((loss, i) => assert(Math.abs(loss / entry.losses[i] - 1) < 1e-5, `${losses}`));
  });
}

Deno.test("training scales what goes into a router, as transformers does", async () => {
  const { base: config, drawn, logits: want } = golden.jittered;
  const base = baseOf(config, await testDevice("cpu"));
  const model = getPeftModel(base, loraConfig());
  const noise = Object.fromEntries(drawn.map(([batch, length, size], i) => {
    const { shape, ...all } = fill(`noise ${i}`, [batch * length, size]);
    const values = async () => (await all.data() as Float32Array).map(Math.abs);
    return [`router.${i}`, { ...all, shape, data: values }];
  }));
  const { inputIds, attentionMask } = BATCH;
  const { logits } = await forward(model, { inputIds, attentionMask, noise });
  near((await toFloat32(logits as Tensor)).subarray(0, 8 * 13), want, "logits");
  assert(apart(await logitsOf(model), want.slice(0, 8 * 13)) > 1e-2);
});

Deno.test("experts with adapters write what merged ones write", async () => {
  const entry = cases.find(({ name }) => name.endsWith("long"))!;
  const model = await adaptedOf(entry, await testDevice("cpu"));
  const write = async (model: AnyModel) =>
    (await generate(model, [[7, 3, 9]], { maxNewTokens: 6, eosTokenId: [] }))[0].tokenIds;
  const written = await write(model);
  assertEquals(written, await write(mergeAndUnload(model)));
  assert(written.join() !== (await write(model.base)).join());
});

Deno.test("merged, scaled, saved and taken out again", async () => {
  const device = await testDevice("cpu"), model = await adaptedOf(cases[0], device);
  const base = model.base,
    plain = await logitsOf(base),
    name = "model.layers.1.mlp.experts.down_proj";
  const merged = mergeAdapter(model);
  near(await logitsOf(merged), cases[0].merged, "merged");
  near(await logitsOf(unmergeAdapter(merged)), cases[0].logits, "unmerged");
  assertEquals(await logitsOf({ ...model, enabled: false }), plain);
  const delta = getDeltaWeight(model, name);
  assertEquals(delta.shape, [3, 12, 7]);
  const values = await toFloat32(delta);
  const sum = (await toFloat32(base.parameters.get(name)!)).map((x, i) => x + values[i]);
  near(await toFloat32(merged.base.parameters.get(name)!), [...sum], name);
  const { value: half } = await withAdapterScale(model, 0.5, (half) => logitsOf(half));
  assert(apart(half, cases[0].logits.slice(0, half.length)) > 1e-3);

  const folder = await Deno.makeTempDir();
  await savePretrained(model, folder);
  const again = await loadAdapter(base, folder);
  near(await logitsOf(again), cases[0].logits, "loaded");
  await Deno.remove(folder, { recursive: true });
  const { certificate } = await mergeAndUnload(model, { certificate: true, tolerance: 1e-5 });
  assert(certificate.layers.some(({ path }) => path === "model.layers.1.mlp.experts"));
});

for (const entry of golden.old as unknown as readonly (Case & { readonly weights: Shapes })[]) {
  Deno.test(`LoRAs of single experts of ${entry.name} become those of parameters`, async () => {
    const base = baseOf(entry.base, await testDevice("cpu"));
    const tensors = filled(Object.entries(entry.keys));
    const parts = { config: { peft_type: "LORA", ...entry.config }, tensors };
    let renamed = 0;
    const model = await loadAdapter(base, parts, { onReport: (r) => renamed = r.renamed.length });
    near(await logitsOf(model), entry.logits, "logits");
    const dict = [...getAdapterStateDict(model)].map(([key, { shape }]) => [key, shape]);
    assertEquals(Object.fromEntries(dict), entry.weights);
    assert(renamed > 30);
    const [key] = [...tensors.keys()].filter((key) => key.includes("experts.2."));
    await assertRejects(
      () =>
        loadAdapter(base, {
          ...parts,
          tensors: new Map([...tensors].filter(([k]) => k !== key)),
        }),
      Error,
      "experts.base_layer.lora_A",
    );
  });
}

Deno.test("LoRAs of single experts beside a shared one", async () => {
  const { base: config } = cases.find(({ name }) => name === "qwen2_moe")!;
  const base = baseOf(config, await testDevice("cpu"));
  const fused = getPeftModel(
    base,
    loraConfig({
      r: 2,
      targetModules: ["gate_proj", "up_proj", "down_proj"],
      targetParameters: ["gate_up_proj", "experts.down_proj"],
      rankPattern: { gate_up_proj: 4 },
      alphaPattern: { gate_up_proj: 16 },
    }),
  );
  const tensors = new Map<string, Tensor>();
  for (const [key, { shape }] of getAdapterStateDict(fused)) {
    if (key.includes("shared_expert")) tensors.set(key, fill(key, shape));
  }
  for (const layer of [0, 1]) {
    for (let expert = 0; expert < 5; expert++) {
      for (const [part, i, o] of [["gate_proj", 12, 5], ["up_proj", 12, 5], ["down_proj", 5, 12]]) {
        const at = `base_model.model.model.layers.${layer}.mlp.experts.${expert}.${part}`;
        tensors.set(`${at}.lora_A.weight`, fill(`${at}A`, [2, Number(i)]));
        tensors.set(`${at}.lora_B.weight`, fill(`${at}B`, [Number(o), 2]));
      }
    }
  }
  const config2 = loraConfig({ r: 2, targetModules: ["gate_proj", "up_proj", "down_proj"] });
  const model = await loadAdapter(base, { config: config2, tensors });
  // Expert 3: its own delta of up_proj is B·A.
  const at = "base_model.model.model.layers.1.mlp.experts.3.up_proj";
  const [a, b] = await Promise.all(
    ["A", "B"].map((leaf) => toFloat32(tensors.get(`${at}.lora_${leaf}.weight`)!)),
  );
  const delta = await toFloat32(getDeltaWeight(model, "model.layers.1.mlp.experts.gate_up_proj"));
  const want = Array.from({ length: 5 * 12 }, (_, at) => {
    const [row, column] = [Math.floor(at / 12), at % 12];
    return 4 * (b[row * 2] * a[column] + b[row * 2 + 1] * a[12 + column]);
  });
  near(delta.subarray((3 * 10 + 5) * 12, 4 * 10 * 12), want, "delta");
});

for (const entry of [cases[0], cases[3], cases[4]]) {
  Deno.test(`experts of ${entry.name} are read one by one, and saved as one`, async () => {
    const device = await testDevice("cpu"), { architecture, parameters } = parametersOf(entry.base);
    const fused = createModelGraph(architecture, { config: entry.base, parameters, device });
    const single = new Map<string, Tensor>();
    const old = entry.name === "mixtral";
    for (const [name, stored] of parameters) {
      const parts = architecture.stacked!.parts[name.match(/experts\.(\w+)$/)?.[1] ?? ""];
      const key = old ? name.replace(".mlp.", ".block_sparse_moe.") : name;
      if (!parts) {
        single.set(key, stored);
        continue;
      }
      const values = await toFloat32(stored), [experts, out, columns] = stored.shape;
      const shape = [out / parts.length, columns], size = shape[0] * columns;
      for (let i = 0; i < experts * parts.length; i++) {
        const [expert, part] = [Math.floor(i / parts.length), parts[i % parts.length]];
        const path = key.replace(/\w+$/, `${expert}.${part}.weight`);
        const own = tensor(values.slice(i * size, (i + 1) * size), { shape });
        single.set(path, castTensor(own, "bf16"));
      }
    }
    const folder = await Deno.makeTempDir();
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(entry.base));
    await writeSafetensors(`${folder}/model.safetensors`, single);
    const loaded = await loadModel(folder, { device });
    const want = await logitsOf(fused);
    assert(apart(await logitsOf(loaded), want) < 2e-2);
    assertEquals(loaded.parameters.get("model.layers.0.mlp.experts.down_proj")!.dtype, "bf16");
    await saveModel(fused, folder);
    near(await logitsOf(await loadModel(folder, { device })), [...want], "saved");
    await Deno.remove(folder, { recursive: true });
  });
}

Deno.test("what cannot be adapted as a parameter says why", async () => {
  const device = await testDevice("cpu");
  const base = baseOf(cases[0].base, device),
    llama = baseOf(cases.find(({ name }) => name === "llama")!.base, device);
  const fails = (model: ModelGraph, fields: Partial<LoraConfig>, ...words: string[]) => {
    const config = loraConfig({ targetModules: [], ...fields });
    const error = assertThrows(() => getPeftModel(model, config));
    assert(error instanceof TargetError || error instanceof UnsupportedError, `${error}`);
    for (const word of words) assertStringIncludes(error.message, word);
    assertEquals(planAdapter(model, config).problems.length > 0, true);
  };
  fails(base, { targetParameters: ["gate_upproj"] }, "gate_upproj", "Nearest: gate_up_proj");
  fails(base, { targetParameters: ["gate_up_proj", "norm.weight"] }, "[12]", "two or three axes");
  fails(
    llama,
    { targetModules: ["q_proj"], targetParameters: ["q_proj.weight"] },
    "targetModules: []",
  );
  fails(base, { targetModules: ["experts"] }, "experts");
  fails(
    base,
    { targetParameters: ["gate.weight"], modulesToSave: ["mlp.gate"] },
    "modulesToSave",
  );
  for (
    const fields of [
      { loraDropout: 0.1 },
      { loraBias: true },
      { useDora: true },
      { fanInFanOut: true },
      { initLoraWeights: "pissa" as const },
    ]
  ) {
    const error = assertThrows(
      () => loraConfig({ targetParameters: ["gate_up_proj"], ...fields }),
      ConfigError,
    );
    assertStringIncludes(error.message, Object.keys(fields)[0]);
  }
  assertThrows(
    () => getPeftModel(base, loraConfig({ targetModules: ["w1", "w2"] })),
    ConfigError,
    "w3",
  );
  const quantized: ModelGraph = {
    ...llama,
    parameters: new Map([...llama.parameters].map(([name, stored]) => [
      name,
      name.endsWith("o_proj.weight") ? { ...stored, dtype: "q8_0" as const } : stored,
    ])),
  };
  fails(quantized, { targetParameters: ["o_proj.weight"] }, "q8_0", "dequantize");

  // The usual targets of (IA)³ are names of which only some are left.
  assertEquals(planAdapter(base, ia3Config()).unmatched.map(({ pattern }) => pattern), ["w2"]);
  assertEquals(getPeftModel(base, ia3Config()).adapters.get("default")!.parts.size, 4);

  const config = loraConfig({ targetParameters: ["gate_up_proj"] });
  const model = addAdapter(getPeftModel(base, config), "other", config);
  await assertRejects(
    () => forward(model, { inputIds: [[1, 2]], adapterNames: ["other"] }),
    UnsupportedError,
    "targetParameters",
  );
  assertThrows(
    () =>
      addWeightedAdapter(model, {
        adapters: ["default", "other"],
        weights: [1, 1],
        adapterName: "x",
      }),
    UnsupportedError,
    "targetParameters",
  );
  await assertRejects(() => convertToLora(model, { rank: 2 }), UnsupportedError);
});
