/**
 * Writes, for every golden case of one adapter, an adapter of this library with its outputs, for verify.py to read into the real PEFT;
 * of all methods, or of those that are named (LORA), or of cases (lora_eva):
 *
 *     deno run -A tests/golden/write.ts FOLDER [NAME ...] && python3 tests/golden/verify.py FOLDER/*
 *
 * @module
 */
import { resolve } from "node:path";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../lib/adapters/leaves.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { openDevice } from "../../lib/device/open.ts";
import { writeSafetensors } from "../../lib/io/safetensors.ts";
import { snakeCase } from "../../lib/methods/config.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import {
  calibrationOf,
  expectedOf,
  goldenCases,
  inputsOf,
  peftConfig,
  taskCases,
} from "../golden-case.ts";
import prefixTuning from "./prefix_tuning/index.json" with { type: "json" };

const SEED = 3;
const [given, ...methods] = Deno.args;
if (!given) {
  console.error("usage: deno run -A tests/golden/write.ts FOLDER [NAME ...]");
  Deno.exit(2);
}
using device = await openDevice("cpu");
const prefixes = prefixTuning.cases.map((prefix) => ({
  ...prefix,
  peftType: "PREFIX_TUNING",
  folder: `${golden}prefix_tuning/${prefix.name}/`,
}));
const folder = resolve(given);
// Where the tokenizer of a config lies.
Deno.chdir(golden);
for (const goldenCase of [...goldenCases, ...prefixes, ...taskCases]) {
  const { kind, adapters, peftType } = goldenCase;
  const name = `${peftType.toLowerCase()}_${goldenCase.name}`;
  const isChosen = methods.length === 0 ||
    methods.some((m) => m === peftType || name.startsWith(m));
  if (adapters.length || !isChosen) continue;
  const expected = await expectedOf(goldenCase);
  const { record } = expected;
  // It began as what it was made from, of which there is no case.
  if (record.converted && peftType === "LORA" && record.config!.lora_ga_config) continue;
  const config = record.config!;
  const base = { ...await goldenBase(kind, device), source: `base/${kind}` };
  const calibration = await calibrationOf(base, expected);
  const fresh = getPeftModel(base, peftConfig(peftType, config), { seed: SEED, calibration });
  const random = createTorchRandom(9);
  const leaves = new Map<string, Tensor>();
  for (const [leaf, start] of trainableLeaves(fresh)) {
    const values = await toFloat32(start);
    const shift = random.normal(values.length, { std: 0.15 });
    leaves.set(leaf, tensor(values.map((x, i) => x + shift[i]), { shape: start.shape }));
  }
  const model = withLeaves(fresh, leaves);
  // Without what was measured PEFT reads it only as a plain LoRA.
  const converted = calibration !== undefined;
  await savePretrained(model, `${folder}/${name}`, {
    ...(converted && { pathInitialModelForWeightConversion: true }),
  });
  const { labels: _, ...inputs } = inputsOf(expected, "in.");
  const outputs = await forward(model, inputs as never);
  const named = (prefix: string, tensors: object) =>
    Object.entries(tensors).map(([name, tensor]) => [`${prefix}.${snakeCase(name)}`, tensor]);
  const recorded = named("adapted", outputs).filter(([name]) => expected.has(name));
  await writeSafetensors(
    `${folder}/${name}/outputs.safetensors`,
    Object.fromEntries([...named("in", inputs), ...recorded]),
  );
  // Where PEFT cannot read its own config, ours says the same in another way.
  const asked = record.reload_error ? {} : converted ? { config, converted } : { config };
  await Deno.writeTextFile(
    `${folder}/${name}/case.json`,
    JSON.stringify({ kind, seed: SEED, ...asked }),
  );
}
