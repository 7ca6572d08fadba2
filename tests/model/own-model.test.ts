/**
 * A model of one's own with convolutions and attention of some rows to others, and each method that
 * adapts its modules, against PEFT on the same module in torch.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import { leavesOf } from "../../lib/adapters/parts.ts";
import type { AnyModel, PeftModel } from "../../lib/adapters/peft-model.ts";
import type { Device } from "../../lib/device/device.ts";
import { CheckpointError, ShapeError, UnsupportedError, ValueError } from "../../lib/errors.ts";
import { defineModel, type ModelDefinition } from "../../lib/io/define-model.ts";
import { readJsonFile } from "../../lib/io/json.ts";
import { writeSafetensors } from "../../lib/io/safetensors.ts";
import { parseConfig, type TargetConfig } from "../../lib/methods/config.ts";
import { defaultMethods } from "../../lib/methods/mod.ts";
import { fromPeftJson } from "../../lib/methods/peft-json.ts";
import { siteKinds } from "../../lib/methods/site-rule.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import { add, mul, sub, tanh } from "../../lib/ops/elementwise.ts";
import { concat } from "../../lib/ops/concat.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { sum } from "../../lib/ops/reduce.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import type { Value } from "../../lib/ops/value.ts";
import type { Objective } from "../../lib/tasks/objective.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { isFloating } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { testDevice, testOnceOnWebGpu } from "../devices.ts";
import { fileKey } from "../golden-case.ts";
import { assertSketch, fill, gradientOf, SHARE, type Sketch } from "../golden-values.ts";
import { inFolder } from "../io/folder.ts";
import { apart } from "../steps.ts";
import golden from "./own-model.golden.json" with { type: "json" };

/** Images and sounds become rows, which words attend to. */
const definition: ModelDefinition = {
  inputs: {
    image: { axes: ["batch", 3, 7, 5] },
    sound: { axes: ["batch", 4, 9] },
    words: { axes: ["batch", "words"], dtype: "i32", from: 0, to: 10 },
  },
  modules(m) {
    const patch = m.conv("patch", { in: 3, out: 8, kernel: [3, 3] }, { stride: 2, padding: 1 });
    const mix = m.conv("mix", { in: 8, out: 8, kernel: [1, 1] });
    const wave = m.conv("wave", { in: 4, out: 8, kernel: [3] });
    const norm = m.norm("norm", 8, { kind: "layer", epsilon: 1e-5 });
    const table = m.embedding("words", { rows: 11, size: 6 });
    const at = m.at("attention");
    const attend = at.attention({ features: 6, heads: 2, headSize: 4, over: "patches" });
    const q = at.linear("q", { in: 6, out: 8 });
    const k = at.linear("k", { in: 8, out: 8 }, { bias: false });
    const v = at.linear("v", { in: 8, out: 8 });
    const o = at.linear("o", { in: 8, out: 6 });
    const head = m.linear("head", { in: 6, out: 3 });
    const heads = (x: Value) => reshape(x, [x.shape[0], -1, 2, 4]);
    return ({ image, sound, words }) => {
      const [batch] = words.shape;
      const seen = reshape(mix(tanh(patch(image))), [batch, 8, -1]);
      const rows = norm(transpose(concat([seen, wave(sound)], { axis: 2 })));
      const x = table(words);
      const attended = attend({
        q: heads(q(x)),
        over: rows,
        keyValues: (rows) => ({ k: heads(k(rows)), v: heads(v(rows)) }),
        project: (y) => o(reshape(y, [batch, -1, 8])),
      });
      return { scores: head(add(x, attended)) };
    };
  },
};

const { base: { words, tasks, scores, refused }, cases } = golden as unknown as {
  readonly base: {
    readonly words: number[][];
    readonly tasks: number[];
    readonly scores: number[];
    readonly refused: Readonly<Record<string, string>>;
  };
  readonly cases: readonly {
    readonly config: Readonly<Record<string, unknown>> & { readonly peft_type: string };
    readonly keys: Readonly<Record<string, readonly number[]>>;
    readonly scores: number[];
    readonly merged: number[] | null;
    readonly gradients: Readonly<Record<string, Sketch>>;
    readonly losses: number[];
  }[];
};

const SHAPES = {
  "patch.weight": [8, 3, 3, 3],
  "patch.bias": [8],
  "mix.weight": [8, 8, 1, 1],
  "mix.bias": [8],
  "wave.weight": [8, 4, 3],
  "wave.bias": [8],
  "norm.weight": [8],
  "norm.bias": [8],
  "words.weight": [11, 6],
  "attention.q.weight": [8, 6],
  "attention.q.bias": [8],
  "attention.k.weight": [8, 8],
  "attention.v.weight": [8, 8],
  "attention.v.bias": [8],
  "attention.o.weight": [6, 8],
  "attention.o.bias": [6],
  "head.weight": [3, 6],
  "head.bias": [3],
};
const weights = new Map(Object.entries(SHAPES).map(([name, shape]) => [name, fill(name, shape)]));

const INPUTS = {
  image: fill("image", [2, 3, 7, 5]),
  sound: fill("sound", [2, 4, 9]),
  words: tensor(Int32Array.from(words.flat()), { shape: [2, 4] }),
};

async function scoresOf(model: AnyModel, inputs = INPUTS): Promise<Float32Array> {
  const { scores } = await forward<{ scores: Tensor }>(model, inputs);
  assertEquals(scores.shape, [2, 4, 3]);
  return await scores.data() as Float32Array;
}

/** The mean of the squares of what scores are off. */
const squares: Objective = {
  name: "squares",
  outputs: ["scores"],
  inputs: () => [{ name: "wanted", axes: ["batch", "words", 3], dtype: "f32", doc: "Scores." }],
  prepare: ({ parts: { wanted: { data, shape } } }) => ({
    labels: { wanted: tensor(data, { shape }) },
    count: data.length,
  }),
  loss({ scores }, { wanted }) {
    const off = sub(scores, wanted);
    return sum(mul(off, off));
  },
};

const BATCH = { ...INPUTS, wanted: fill("wanted", [2, 4, 3]) };

/** An adapter with the values of its keys, by which DoRA's magnitudes change. */
async function adapted(base: ModelGraph, config: TargetConfig): Promise<PeftModel> {
  const model = getPeftModel(base, config, { seed: 7 });
  const values = new Map<string, Tensor>();
  for (const [key, leaf] of getAdapterStateDict(model)) {
    await leaf.data(); // how large it is may follow from the weights
    if (!isFloating(leaf.dtype)) {
      values.set(key, leaf);
      continue;
    }
    const old = key.includes("magnitude") ? await toFloat32(leaf) : undefined;
    if (leaf.dtype === "i32") {
      values.set(key, leaf);
      continue;
    }
    const own = (await toFloat32(fill(key, leaf.shape))).map((x, i) => x + (old?.[i] ?? 0));
    values.set(key, tensor(own, { shape: leaf.shape }));
  }
  return (await setAdapterStateDict(model, values)).model;
}

const own = (device: Device) => defineModel(definition, { device, weights });

for (const { config, keys, ...expected } of cases) {
  const parts = config.peft_type === "POLY" ? { taskIds: tensor(Int32Array.from(tasks)) } : {};
  const name = `${config.peft_type}${config.use_dora ? " with DoRA" : ""}${
    config.modules_to_save ? " and saved modules" : ""
  }`;
  testOnceOnWebGpu(`${name} on a model of one's own is as in PEFT`, async (device) => {
    const base = await own(device);
    assert(apart(await scoresOf(base), scores) < SHARE, "base");
    const model = await adapted(base, fromPeftJson(config) as TargetConfig);
    const saved = getAdapterStateDict(model);
    for (const leaf of saved.values()) await leaf.data();
    assertEquals(
      Object.fromEntries([...saved].map(([k, { shape }]) => [k, [...shape]])),
      keys,
    );
    assert(
      apart(await scoresOf(model, { ...INPUTS, ...parts }), expected.scores) < SHARE,
      "scores",
    );
    if (expected.merged) {
      const merged = mergeAndUnload(model);
      assert(apart(await scoresOf(merged), expected.merged) < SHARE, "merged");
      assert(apart(await scoresOf(base), scores) < SHARE, "the base afterwards");
    } else assertThrows(() => mergeAndUnload(model), UnsupportedError);
    const batch = { ...BATCH, ...parts };
    const { gradients } = await computeGradients(model, batch, {
      objective: squares,
      ofStep: true,
    });
    // Some leaves are several keys.
    if (!leavesOf(model.adapters.get("default")!).some(({ leaf }) => leaf.read)) {
      assertEquals(gradients.size, Object.keys(expected.gradients).length);
    }
    const scale = Math.max(...Object.values(expected.gradients).map(([largest]) => largest));
    for (const [parameter, sketch] of Object.entries(expected.gradients)) {
      const found = await gradientOf(model, gradients, fileKey(parameter));
      assertSketch(found, sketch, { what: parameter, scale });
    }
    const { history } = await train(model, [batch, batch, batch], {
      objective: squares,
      learningRate: 1e-2,
      weightDecay: 0.1,
      dropout: false,
    });
    const losses = history.map(({ loss }) => loss);
    assert(apart(losses, expected.losses) < 1e-5, `${losses} for ${expected.losses}`);
  });
}

Deno.test("each method that adapts kinds of modules of the model has a case, or is refused by PEFT", async () => {
  const base = await own(await testDevice("cpu"));
  const kinds = new Set([...base.sites.values()].map(({ kind }) => kind));
  const seen = new Set(cases.map(({ config }) => config.peft_type));
  for (const method of defaultMethods.values()) {
    const { peftType, example = {} } = method.config;
    const config = parseConfig(method.config, example);
    const adapts = siteKinds({ method, config }).some((kind) => kinds.has(kind));
    assertEquals(!adapts || seen.has(peftType) !== peftType in refused, true, peftType);
    if (peftType in refused) assertThrows(() => getPeftModel(base, config), UnsupportedError);
  }
});

Deno.test("weights come from a file of torch's, adapters say no base, and both come back", async () => {
  const device = await testDevice("cpu");
  await inFolder(async (folder) => {
    await writeSafetensors(`${folder}/net.safetensors`, weights);
    const base = await defineModel(definition, { device, weights: `${folder}/net.safetensors` });
    assert(apart(await scoresOf(base), scores) < SHARE);
    const model = await adapted(await own(device), fromPeftJson(cases[0].config) as TargetConfig);
    await savePretrained(model, `${folder}/adapter`);
    const saved = await readJsonFile(`${folder}/adapter/adapter_config.json`);
    assertEquals([saved.base_model_name_or_path, saved.task_type], [null, null]);
    const again = await loadAdapter(base, `${folder}/adapter`);
    assert(apart(await scoresOf(again), cases[0].scores) < SHARE);
  });
});

Deno.test("what is no definition, no weights of it, and no batch for it is refused", async () => {
  const device = await testDevice("cpu"), base = await own(device);
  const define = (part: object, options: object = {}) => () =>
    defineModel({ ...definition, ...part }, { device, ...options });
  await assertRejects(define({ inputs: {} }), ValueError, "inputs");
  await assertRejects(define({ inputs: { image: [3, 8, 8] } }), ValueError, "axes");
  await assertRejects(define({ modules: undefined }), ValueError, "modules");
  await assertRejects(define({ forward: () => {} }), ValueError, "forward");
  await assertRejects(define({}, { weights: new Map() }), CheckpointError, "missing patch.weight");
  const { image: _, ...rest } = INPUTS;
  await assertRejects(() => forward<object>(base, rest), ValueError, "image");
  const small = { ...INPUTS, image: fill("image", [2, 3, 5, 5]) };
  await assertRejects(() => forward<object>(base, small), ShapeError, "[2,3,7,5]");
  await assertRejects(
    () =>
      forward<object>(base, { ...INPUTS, words: tensor(Int32Array.of(11, 0), { shape: [2, 1] }) }),
    ValueError,
    "0 to 10",
  );
  await assertRejects(
    () =>
      train(getPeftModel(base, fromPeftJson(cases[0].config) as TargetConfig), [BATCH], {
        learningRate: 1e-2,
      }),
    UnsupportedError,
    "objective",
  );
});
