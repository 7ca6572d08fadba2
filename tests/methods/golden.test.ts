/**
 * Configs, files and initial values of the methods beside LoRA, against those of the real PEFT.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { ConfigError, GraftError } from "../../lib/errors.ts";
import { readJsonFile } from "../../lib/io/json.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import {
  expectedOf,
  fileKey,
  goldenCases,
  goldenMethods,
  type PeftArguments,
  peftConfig,
} from "../golden-case.ts";
import { inFolder } from "../io/folder.ts";
import { apart } from "../steps.ts";

const CONFIG = "adapter_config.json";

/** Fields that are sets in PEFT, and have no order. */
const SETS = ["target_modules", "exclude_modules", "feedforward_modules"];

const others = goldenCases.filter(({ peftType }) => peftType !== "LORA");

function withoutOrder(json: PeftArguments): PeftArguments {
  const sorted = (value: unknown) => Array.isArray(value) ? [...value].sort() : value;
  return Object.fromEntries(
    Object.entries(json).map(([key, value]) => [key, SETS.includes(key) ? sorted(value) : value]),
  );
}

Deno.test("every adapter_config.json of the methods beside LoRA is written again byte for byte", async () => {
  for (const { folder, adapters } of others) {
    for (const at of adapters.length ? adapters : [""]) {
      const text = await Deno.readTextFile(`${folder}${at}/${CONFIG}`);
      if ((await expectedOf({ folder })).record.reload_error) {
        assertThrows(() => fromPeftJson(JSON.parse(text)), ConfigError, "subset");
        continue;
      }
      const config = fromPeftJson(JSON.parse(text));
      assertEquals(toPeftJson(config), text, folder);
      assertEquals(fromPeftJson(JSON.parse(toPeftJson(config))), config);
    }
  }
});

Deno.test("adapters of the methods beside LoRA have PEFT's config and sizes, and are read again", async () => {
  for (const { folder, peftType, kind, adapters, name } of others) {
    const { record } = await expectedOf({ folder });
    const base = { ...await goldenBase(kind), source: `base/${kind}` };
    const asked = Object.entries(record.adapters ?? { default: record.config! });
    for (const [adapterName, fields] of asked) {
      const config = peftConfig(peftType, fields);
      const model = await randomized(getPeftModel(base, config, { adapterName }));
      if (!adapters.length) {
        assertEquals(planAdapter(base, config).trainableParameters, record.trainable_parameters);
      }
      await inFolder(async (out) => {
        await savePretrained(model, out);
        const at = adapters.length ? `${adapterName}/` : "";
        const written = await readJsonFile(`${out}/${at}${CONFIG}`);
        // What PEFT itself cannot read says the same in another way here.
        if (!record.reload_error) {
          const wanted = await readJsonFile(`${folder}${at}${CONFIG}`);
          assertEquals(withoutOrder(written), withoutOrder(wanted), `${name} ${adapterName}`);
        }
        const subfolder = adapters.length ? { subfolder: adapterName } : {};
        const again = await loadAdapter(base, out, { adapterName, ...subfolder });
        const [saved, read] = [model, again].map((m) => getAdapterStateDict(m, adapterName));
        assertEquals([...read.keys()], [...saved.keys()]);
        for (const [key, tensor] of saved) {
          assertEquals(await toFloat32(read.get(key)!), await toFloat32(tensor), key);
        }
        // Saved once more, the config is the same.
        await savePretrained(again, out);
        assertEquals(await readJsonFile(`${out}/${at}${CONFIG}`), written);
      });
    }
  }
});

for (const { peftType, folder, init } of goldenMethods) {
  for (const [name, { kind, seed, config: fields, order, next_uniform }] of Object.entries(init)) {
    Deno.test(`init ${peftType} ${name}: the leaves and the numbers taken are PEFT's`, async () => {
      const base = await goldenBase(kind);
      const config = peftConfig(peftType, fields);
      const { sites, config: resolved, method } = planAdapter(base, config);
      assertEquals(sites.map(({ site }) => site.path), order);
      const random = createTorchRandom(seed);
      for (const { site } of sites) {
        const weight = () => Promise.reject(new Error("not needed"));
        await method.init({ site, config: resolved, model: base, random, weight });
      }
      assertEquals(random.uniform(1)[0], next_uniform);

      const model = getPeftModel(base, config, { seed });
      const leaves = new Map([
        ...getAdapterStateDict(model),
        ...Object.entries(model.adapters.get("default")!.shared.frozen)
          .map(([leaf, tensor]) => [`base_model.${leaf}`, tensor] as const),
      ]);
      const { tensors } = await openSafetensors(`${folder}init/${name}.safetensors`);
      assertEquals([...leaves.keys()].sort(), [...tensors.keys()].map(fileKey).sort());
      for (const [key, want] of tensors) {
        const got = leaves.get(fileKey(key))!;
        assertEquals(got.shape, want.shape, key);
        const [a, b] = [await toFloat32(got), await toFloat32(want)];
        // Sine and logarithm in normal numbers are as exact as the platform's; the rest is to the bit.
        if (new Set(b).size === 1 || key.startsWith("base_model.vera_")) assertEquals(a, b, key);
        else assert(apart(a, b) < 5e-7, `${key}: ${apart(a, b)}`);
      }
    });
  }
}

Deno.test("adapters start from the values that PEFT recorded in some cases", async () => {
  let count = 0;
  for (const golden of others) {
    const expected = await expectedOf(golden);
    const started = [...expected.names()].filter((key) => key.startsWith("init."));
    if (started.length === 0) continue;
    const { record: { seed, config }, get } = expected;
    const base = await goldenBase(golden.kind);
    const model = getPeftModel(base, peftConfig(golden.peftType, config!), { seed });
    const { frozen } = model.adapters.get("default")!.shared;
    const leaves = getAdapterStateDict(model);
    for (const name of started) {
      const key = fileKey(name.slice("init.".length));
      const got = leaves.get(key) ?? frozen[key.replace("base_model.", "")];
      const [a, b] = [await toFloat32(got), await toFloat32(get(name))];
      if (new Set(b).size === 1) assertEquals(a, b, key);
      else assert(apart(a, b) < 5e-7, key);
      count++;
    }
  }
  assert(count > 12, `only ${count} leaves`);
});

/** What PEFT refuses of a second adapter because all share the first one's projections; here each has its own. */
const OWN_PROJECTIONS = [
  "together_larger_rank",
  "together_smaller_rank",
  "together_larger_output",
  "together_larger_input",
];

Deno.test("what PEFT refuses is refused", async () => {
  for (const { peftType, refused } of goldenMethods) {
    for (const [name, { kind, config, second, stage, error }] of Object.entries(refused)) {
      assert(error, `${name} is refused by PEFT`);
      const base = await goldenBase(kind);
      if (stage === "config") {
        assertThrows(() => peftConfig(peftType, config), ConfigError, undefined, name);
      } else if (!second) {
        const build = () => getPeftModel(base, peftConfig(peftType, config));
        assertThrows(build, GraftError, undefined, `${peftType} ${name}`);
      } else if (OWN_PROJECTIONS.includes(name)) {
        const model = getPeftModel(base, peftConfig(peftType, config));
        const both = addAdapter(model, "second", peftConfig(peftType, second));
        assertEquals([...both.adapters.keys()], ["default", "second"]);
      }
    }
  }
});

Deno.test("a file that lacks its projections, or holds what it is not to hold", async () => {
  const stored = others.find(({ peftType, name }) => peftType === "VERA" && name === "basic")!;
  const made = others.find(({ peftType, name }) => peftType === "VERA" && name === "not_stored")!;
  const base = await goldenBase(stored.kind);
  const parts = async (folder: string) => ({
    config: await readJsonFile(`${folder}${CONFIG}`),
    tensors: new Map((await openSafetensors(`${folder}adapter_model.safetensors`)).tensors),
  });
  const whole = await parts(stored.folder), without = await parts(made.folder);
  const lacking = { ...whole, tensors: without.tensors };
  await assertRejects(() => loadAdapter(base, lacking), GraftError, "vera_A");
  // The same projections, made again; those in a file that are not to be read are not.
  const again = await loadAdapter(base, { ...without, tensors: whole.tensors }, {
    onReport: ({ ignored, regenerated }) => {
      assertEquals([...ignored].sort(), ["base_model.vera_A", "base_model.vera_B"]);
      assertEquals(regenerated, ["vera_A", "vera_B"]);
    },
  });
  const { frozen } = again.adapters.get("default")!.shared;
  for (const leaf of ["vera_A", "vera_B"]) {
    const kept = whole.tensors.get(`base_model.${leaf}`)!;
    assertEquals(await toFloat32(frozen[leaf]), await toFloat32(kept));
  }
});
