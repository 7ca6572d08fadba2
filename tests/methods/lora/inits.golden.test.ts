import { assert, assertEquals, assertLess } from "@std/assert";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { initializeLoraEvaWeights } from "../../../lib/adapters/lora/eva.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors } from "../../../lib/io/safetensors.ts";
import type { LoraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { fromPeftJson, toPeftJson } from "../../../lib/methods/peft-json.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { preprocessLoraga } from "../../../lib/training/preprocess-loraga.ts";
import { goldenBase } from "../../adapters/bases.ts";
import {
  calibrationOf,
  type Expected,
  expectedOf,
  fileKey,
  type GoldenCase,
  goldenCases,
  inputsOf,
  peftConfig,
} from "../../golden-case.ts";
import { testOnDevices } from "../../devices.ts";
import { apart } from "../../steps.ts";

/** How far vectors of torch's decompositions, in 32-bit floats, are from exact ones. */
const CLOSE = 1e-5;

const all = goldenCases.filter(({ folder }) => /\/lora_(inits|loftq)\//.test(folder));
// Of what is converted no beginning is kept.
const cases = all.filter(({ name }) => !name.endsWith("_plain"));

function batchesOf(expected: Expected) {
  return [0, 1, 2].map((i) => inputsOf(expected, `calibration.${i}.`));
}

/** The adapter as PEFT's began. */
async function begun(
  golden: GoldenCase,
  expected: Expected,
  base: ModelGraph,
): Promise<PeftModel> {
  const { record: { seed, config } } = expected;
  const fields = peftConfig(golden.peftType, config!) as LoraConfig;
  const batches = batchesOf(expected);
  const calibration = fields.initLoraWeights === "lora_ga"
    ? await preprocessLoraga(base, fields, { batches })
    : undefined;
  for (const [path, { gradient }] of calibration?.sites ?? []) {
    const want = expected.get(`gradient.${path}`);
    assertEquals(gradient.shape, want.shape, path);
    assertLess(apart(await toFloat32(gradient), await toFloat32(want)), CLOSE, path);
  }
  const model = getPeftModel(base, fields, { seed, calibration });
  return fields.initLoraWeights === "eva"
    ? await initializeLoraEvaWeights(model, { batches })
    : model;
}

function comparable(json: Readonly<Record<string, unknown>>): unknown {
  return {
    ...json,
    inference_mode: true,
    target_modules: [...json.target_modules as string[]].sort(),
  };
}

/** Vectors with the signs that others have: rows of A, columns of B. */
function upToSigns(
  values: Float32Array,
  like: Float32Array,
  shape: readonly number[],
  key: string,
): Float32Array {
  const columns = shape[1] ?? 1;
  const vector = (i: number) => /lora_A/.test(key) ? Math.floor(i / columns) : i % columns;
  const signs = new Map<number, number>();
  values.forEach((x, i) => signs.set(vector(i), (signs.get(vector(i)) ?? 0) + x * like[i]));
  return values.map((x, i) => x * (Math.sign(signs.get(vector(i))!) || 1));
}

for (const golden of cases) {
  testOnDevices(`${golden.name} begins as in PEFT`, async (device) => {
    const expected = await expectedOf(golden);
    const base = { ...await goldenBase(golden.kind, device), source: `base/${golden.kind}` };
    const model = await begun(golden, expected, base);
    assertEquals(
      comparable(JSON.parse(toPeftJson(model.adapters.get("default")!.config))),
      comparable(await readJsonFile(`${golden.folder}adapter_config.json`)),
    );
    const leaves = getAdapterStateDict(model);
    let count = 0;
    for (const name of expected.names()) {
      // What EVA has no directions for stays as it began; PEFT draws it once more.
      if (!name.startsWith("init.") || name.includes("lora_embedding_B")) continue;
      const key = fileKey(name.slice("init.".length)), want = expected.get(name);
      const got = leaves.get(key)!;
      assertEquals(got.shape, want.shape, key);
      const [a, b] = [await toFloat32(got), await toFloat32(want)];
      if (new Set(b).size === 1) assertEquals(a, b, key);
      else assertLess(apart(upToSigns(a, b, want.shape, key), b), CLOSE, key);
      count++;
    }
    assert(count > 0);
  });
}

Deno.test("every file of an initialization is read and written again, its config byte for byte", async () => {
  for (const golden of all) {
    const expected = await expectedOf(golden), base = await goldenBase(golden.kind);
    const text = await Deno.readTextFile(`${golden.folder}adapter_config.json`);
    // Python writes an alpha that was multiplied as a float.
    const same = text.replace(/("model\S+": \d+)\.0(?=,?\n)/g, "$1");
    assertEquals(toPeftJson(fromPeftJson(JSON.parse(text))), same, golden.name);
    const calibration = await calibrationOf(base, expected);
    const model = await loadAdapter(base, golden.folder, { calibration });
    const saved = getAdapterStateDict(model);
    const { tensors } = await openSafetensors(`${golden.folder}adapter_model.safetensors`);
    assertEquals([...saved.keys()].sort(), [...tensors.keys()].sort(), golden.name);
    for (const [key, tensor] of tensors) {
      assertEquals(await toFloat32(saved.get(key)!), await toFloat32(tensor), key);
    }
  }
});
