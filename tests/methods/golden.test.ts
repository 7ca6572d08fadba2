/**
 * Configs, files and initial values of the methods beside LoRA, against those of the real PEFT.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { type AdapterLoadReport, loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { weightsOf } from "../../lib/adapters/lazy-leaves.ts";
import { leavesAt, leavesOf } from "../../lib/adapters/parts.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import type { PlannedSite } from "../../lib/adapters/plan/plan-targets.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import type { Device } from "../../lib/device/device.ts";
import { ConfigError, GraftError } from "../../lib/errors.ts";
import { readJsonFile } from "../../lib/io/json.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { loadTokenizer } from "../../lib/io/tokenizer.ts";
import type { TargetConfig } from "../../lib/methods/config.ts";
import type { InitSource } from "../../lib/methods/method.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import {
  expectedOf,
  fileKey,
  goldenCases,
  type GoldenMethod,
  goldenMethods,
  inputsOf,
  type PeftArguments,
  peftConfig,
  taskCases,
  taskMethods,
} from "../golden-case.ts";
import { inFolder } from "../io/folder.ts";
import { apart } from "../steps.ts";
import { makeLeaves } from "./make-leaves.ts";

const CONFIG = "adapter_config.json";

/** Fields that are sets in PEFT, and have no order. */
const SETS = ["target_modules", "exclude_modules", "feedforward_modules"];

/** What PEFT refuses and is right here, and why. */
const WORKS_HERE: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    [
      ...["key", "stored", "larger_rank", "smaller_rank", "larger_output", "larger_input"]
        .map((name) => `VERA together_${name}`),
      ...["RANDLORA", "PVERA"].flatMap((method) =>
        ["key", "stored", "larger_rank", "larger_output"]
          .map((name) => `${method} together_${name}`)
      ),
      "FROD together_key",
    ].map((name) => [name, "all share the first one's projections; here each has its own"]),
  ),
  "TINYLORA together_stored": "each adapter says for itself what its file holds",
  "LORA kasa_beside": "it changes the base, which the other adapter would see",
  "LORA olora_conv1d": "it decomposes the weight as it is stored; here as [out, in]",
  "VERA together_bias": "both train biases; here it is refused when both are to be active",
  "IA3 init_name":
    "a field that is not known and off is passed over, as files of later releases have",
  "TRAINABLE_TOKENS both_tied": "it wraps the tied head twice; here it follows the embedding",
  "TRAINABLE_TOKENS together_tied": "it wraps the tied head twice; here both follow the embedding",
  "TRAINABLE_TOKENS token_cls": "it looks for modulesToSave, which the config has not",
  "PROMPT_TUNING token_cls_labels":
    "it does not make labels as long as what the prompt stands before",
  "ADALORA two_trainable": "here adapters that are added are not trainable until they are chosen",
  "LORA layers_unknown": "it looks for layers where three families have them",
  "WAVEFT wavelet_lacks_filter": "it accepts 74 names, and has filters for 24 of them",
  "WAVEFT wavelet_coif5": "its filter of this name is of another length than it counts on",
  "ADAPTION_PROMPT two_active": "it can choose one only; both add to what attention gives",
};

/** What PEFT accepts and is refused here, and why. */
const REFUSED_HERE: Readonly<Record<string, string>> = {
  "LORA alora_task": "a warning, and an adapter that is never on",
  "LN_TUNING target_block": "a block can be trained, and neither merged nor read by its keys",
  "PROMPT_TUNING init_unknown": "it takes any word for RANDOM",
  "LOKR init_unknown": "it takes any word for true",
  "OSF target_conv1d": "it leaves out what is no linear layer, without a word",
  "OSF target_embedding": "the same",
  "MISS init_unknown": "it takes any word for true",
  "TINYLORA init_unknown": "it takes any word for false, which leaves memory as it is",
  "FROD not_stored": "what it makes again depends on rounding",
  "POLY task_id_negative": "it counts tasks from the end",
};

/** Keys of what is made of uniform numbers, which are the same to the bit. */
const UNIFORM = /^base_model\.(p?vera|randlora|vblora)_|\.(hada|lokr|glora)_/;

/** Keys of what decompositions give, up to signs. */
const DECOMPOSED = /\.(tinylora_[AB]|osf_svd_params)\./;

/** Leaves that follow from vectors of a decomposition which rounding decides; draws are compared. */
const UNDETERMINED = /frod_(V|lambda_l)/;

/** Bound of how far numbers are that a leaf starts from: what AdaMSS decomposes is as exact as 32 bits are. */
const startBound = (key: string) => key.includes("adamss_") ? 1e-5 : 5e-7;

const methods = [...goldenMethods, ...taskMethods];

// Initializations, whose files hold what data made of them, have tests of their own.
const others = [
  ...goldenCases.filter(({ folder }) => /\/methods\/(?!lora_inits)/.test(folder)),
  ...taskCases,
];

/** A config without what differs from writer to writer. */
function comparable(json: PeftArguments): PeftArguments {
  return Object.fromEntries(
    Object.entries(json).map(([key, value]) => {
      if (Array.isArray(value)) {
        // PEFT adds a task's heads to those that are there already, and once more to a prompt's.
        const once = key === "modules_to_save" ? [...new Set(value)] : value;
        return [key, SETS.includes(key) ? [...value].sort() : once];
      }
      return [key, typeof value === "string" ? value.replace(golden, "") : value];
    }),
  );
}

/** A config from PEFT's arguments, whose tokenizer lies in the golden files. */
function configOf(peftType: string, fields: PeftArguments): TargetConfig {
  const { tokenizer_name_or_path: tokenizer } = fields;
  return peftConfig(
    peftType,
    tokenizer ? { ...fields, tokenizer_name_or_path: `${golden}${tokenizer}` } : fields,
  );
}

/** Leaves of an adapter as a whole under the keys of PEFT's parameters, which files may lack. */
function sharedLeaves(model: PeftModel): readonly (readonly [string, Tensor])[] {
  return Object.entries(leavesAt(model.adapters.get("default")!, "shared") ?? {})
    .map(([leaf, tensor]) => [`base_model.${leaf}`, tensor] as const);
}

Deno.test("every file of the methods beside LoRA is read and written again, its config byte for byte", async () => {
  for (const { folder, adapters, kind } of others) {
    const { record } = await expectedOf({ folder });
    const base = await goldenBase(kind);
    const trained = record.steps ? ["trained"] : [];
    for (const at of adapters.length ? adapters : ["", ...trained]) {
      const text = await Deno.readTextFile(`${folder}${at}/${CONFIG}`);
      if (record.reload_error) {
        assertThrows(() => fromPeftJson(JSON.parse(text)), ConfigError, "subset");
        continue;
      }
      const config = fromPeftJson(JSON.parse(text));
      assertEquals(toPeftJson(config), text, folder);
      assertEquals(fromPeftJson(JSON.parse(toPeftJson(config))), config);
      let extra: readonly string[] = [];
      const model = await loadAdapter(base, `${folder}${at}`, {
        onReport: ({ ignored }) => extra = ignored,
      });
      const saved = getAdapterStateDict(model);
      const { tensors } = await openSafetensors(`${folder}${at}/adapter_model.safetensors`);
      // With several adapters PEFT saves what layers share also for layers of the others.
      const keys = [...tensors.keys()].filter((key) => !extra.includes(key));
      assertEquals([...saved.keys()].sort(), keys.sort(), folder);
      for (const key of keys) {
        const tensor = tensors.get(key)!;
        assertEquals(saved.get(key)!.dtype, tensor.dtype === "bf16" ? "f32" : tensor.dtype, key);
        assertEquals(await toFloat32(saved.get(key)!), await toFloat32(tensor), key);
      }
      const again = comparable(JSON.parse(toPeftJson(model.adapters.get("default")!.config)));
      assertEquals(again, comparable(JSON.parse(text)), folder);
    }
  }
});

Deno.test("adapters of the methods beside LoRA have PEFT's config and sizes, and are read again", async () => {
  for (const { folder, peftType, kind, adapters, name } of others) {
    const { record } = await expectedOf({ folder });
    const base = { ...await goldenBase(kind), source: `base/${kind}` };
    const asked = Object.entries(record.adapters ?? { default: record.config! });
    for (const [adapterName, fields] of asked) {
      const config = configOf(peftType, fields);
      const model = await randomized(getPeftModel(base, config, { adapterName }));
      if (!adapters.length) {
        const { trainableParameters: planned } = planAdapter(base, config);
        // Where sizes follow from the weights, a plan says the largest that they can be.
        const isBound = leavesOf(model.adapters.get(adapterName)!).some(({ leaf }) => leaf.read);
        if (isBound) assert(planned >= record.trainable_parameters!, name);
        else assertEquals(planned, record.trainable_parameters);
      }
      await inFolder(async (out) => {
        await savePretrained(model, out);
        const at = adapters.length ? `${adapterName}/` : "";
        const written = await readJsonFile(`${out}/${at}${CONFIG}`);
        // What PEFT itself cannot read says the same in another way here.
        if (!record.reload_error) {
          const wanted = await readJsonFile(`${folder}${at}${CONFIG}`);
          assertEquals(comparable(written), comparable(wanted), `${name} ${adapterName}`);
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

for (const { peftType, folder, init } of methods) {
  for (const [name, { kind, seed, config: fields, order, next_uniform }] of Object.entries(init)) {
    if (REFUSED_HERE[`${peftType} ${name}`]) continue;
    Deno.test(`init ${peftType} ${name}: the leaves and the numbers taken are PEFT's`, async () => {
      const base = await goldenBase(kind);
      const config = configOf(peftType, fields);
      const { sites, config: resolved, method } = planAdapter(base, config);
      const own = sites.filter(({ tied }) => Object.keys(tied).length === 0);
      // By module, or by parameter.
      const ordered = order.flatMap((name) =>
        own.find(({ site: { path } }) => name === path || name.includes(`.${path}.`)) ?? []
      );
      assertEquals([...new Set(ordered)], own);
      const random = createTorchRandom(seed);
      const from: InitSource = {
        random,
        weight: weightsOf(base),
        tokenize: async (text, tokenizer) => (await loadTokenizer(tokenizer)).encode(text),
      };
      const place = { config: resolved, model: base };
      const all = { ...place, sites: sites.map(({ site }) => site) };
      const shared = await makeLeaves(method.leaves.adapter?.(all) ?? {}, from);
      for (const { site } of own) {
        const weight = weightsOf(base, site);
        await makeLeaves(method.leaves.site!({ ...all, site }), { ...from, weight, shared });
      }
      assertEquals(random.uniform(1)[0], next_uniform);

      const model = getPeftModel(base, config, { seed });
      const leaves = new Map([...getAdapterStateDict(model), ...sharedLeaves(model)]);
      const { tensors } = await openSafetensors(`${folder}init/${name}.safetensors`);
      const keys = [...tensors.keys()].map(fileKey);
      // Files of adapters also hold what is tied, what is fixed, and what a task trains along.
      const copies = leavesOf(model.adapters.get("default")!)
        .flatMap(({ leaf: { key, kind, tie } }) =>
          kind === "fixed" || tie?.part === "shared" ? key ?? [] : []
        );
      const trained = [...leaves.keys()].filter((key) =>
        keys.includes(key) || (isOwn(key, own) && !copies.includes(key))
      );
      assertEquals(trained.sort(), keys.sort());
      for (const [key, want] of tensors) {
        const got = leaves.get(fileKey(key))!;
        const a = await toFloat32(got), b = await toFloat32(want);
        assertEquals(got.shape, want.shape, key);
        if (UNDETERMINED.test(key)) continue;
        // Sine and logarithm in normal numbers are as exact as the platform's; the rest is to the bit.
        if (new Set(b).size === 1 || UNIFORM.test(key)) assertEquals(a, b, key);
        else if (DECOMPOSED.test(key)) assert(apart(a.map(Math.abs), b.map(Math.abs)) < 1e-5, key);
        else assert(apart(a, b) < startBound(key), `${key}: ${apart(a, b)}`);
      }
    });
  }
}

/** Whether a key is of a leaf of one of these sites. */
function isOwn(key: string, sites: readonly PlannedSite[]): boolean {
  return !key.includes(".base_layer.") &&
    sites.some(({ site: { path } }) => key.includes(`.${path}.`));
}

Deno.test("adapters start from the values that PEFT recorded in some cases", async () => {
  let count = 0;
  for (const goldenCase of others) {
    const expected = await expectedOf(goldenCase);
    const started = [...expected.names()].filter((key) => key.startsWith("init."));
    // What is decomposed agrees up to signs, and has a test of its own.
    if (started.length === 0 || goldenCase.folder.includes("/lora_loftq/")) continue;
    const { record: { seed, config }, get } = expected;
    const base = await goldenBase(goldenCase.kind);
    const model = getPeftModel(base, configOf(goldenCase.peftType, config!), { seed });
    const leaves = new Map([...getAdapterStateDict(model), ...sharedLeaves(model)]);
    for (const name of started) {
      const key = fileKey(name.slice("init.".length));
      const [a, b] = [await toFloat32(leaves.get(key)!), await toFloat32(get(name))];
      if (new Set(b).size === 1) assertEquals(a, b, key);
      else assert(apart(a, b) < startBound(key), key);
      count++;
    }
  }
  assert(count > 12, `only ${count} leaves`);
});

const STAGES = ["config", "inject", "add", "activate", "forward", "loss", "save"];

/** Runs what a record of a refusal asked for, up to a stage. */
async function attempt(
  { peftType }: GoldenMethod,
  asked: GoldenMethod["refused"][string],
  options: { readonly stage: string; readonly device: Device },
): Promise<PeftModel> {
  const { kind, config, second, task_ids: taskIds } = asked;
  const reaches = (stage: string) => STAGES.indexOf(stage) <= STAGES.indexOf(options.stage);
  const first = configOf(peftType, config);
  const base = await goldenBase(kind, options.device);
  let model = getPeftModel(base, first);
  if (second && reaches("add")) {
    model = addAdapter(model, "second", configOf(peftType, second));
    if (reaches("activate")) model = setAdapter(model, ["default", "second"]);
  }
  if (!reaches("forward")) return model;
  const { tensors } = await openSafetensors(`${golden}base/${kind}/expected.safetensors`);
  const recorded = { names: () => tensors.keys(), get: (name: string) => tensors.get(name)! };
  const { labels, ...rest } = inputsOf(recorded, "in.");
  const inputs = { ...rest, ...(taskIds && { taskIds }) };
  await forward(model, inputs as never);
  if (reaches("loss")) await computeGradients(model, { ...inputs, labels } as never);
  if (reaches("save")) await inFolder(async (out) => await savePretrained(model, out));
  return model;
}

testOnceOnWebGpu("what PEFT refuses is refused", async (device) => {
  const met = new Set<string>();
  for (const method of methods) {
    for (const [name, asked] of Object.entries(method.refused)) {
      const what = `${method.peftType} ${name}`, { error } = asked;
      const { stage = error ? "inject" : "forward" } = asked;
      const isRefused = what in REFUSED_HERE || (error && !(what in WORKS_HERE));
      met.add(what);
      const run = async () => await attempt(method, asked, { stage, device });
      if (!isRefused) await run();
      else await assertRejects(run, GraftError, undefined, what);
    }
  }
  for (const what of [...Object.keys(WORKS_HERE), ...Object.keys(REFUSED_HERE)]) {
    assert(met.has(what), what);
  }
});

/** Cases whose files hold what can be made again, and the field of the config that says so. */
const STORED = {
  VERA: ["basic", "save_projection"],
  PVERA: ["basic", "save_projection"],
  RANDLORA: ["basic", "save_projection"],
  TINYLORA: ["basic", "save_projection"],
  UNILORA: ["stored", "save_indices"],
};

Deno.test("what files need not hold is made again as PEFT made it, and read where it is to be", async () => {
  for (const [method, [name, field]] of Object.entries(STORED)) {
    const { folder, kind } = others.find((o) => o.peftType === method && o.name === name)!;
    const base = await goldenBase(kind);
    const config = await readJsonFile(`${folder}${CONFIG}`);
    const { tensors } = await openSafetensors(`${folder}adapter_model.safetensors`);
    let ignored: readonly string[] = [], regenerated: readonly string[] = [];
    const options = {
      onReport: (report: AdapterLoadReport) => ({ ignored, regenerated } = report),
    };
    const read = await loadAdapter(base, { config, tensors }, options);
    assertEquals([ignored, regenerated], [[], []], method);
    const again = await loadAdapter(
      base,
      { config: { ...config, [field]: false }, tensors },
      options,
    );
    assert(ignored.length > 0 && regenerated.length > 0, method);
    const [stored, made] = [read, again].map((model) => model.adapters.get("default")!);
    for (const id of stored.parts.keys()) {
      for (const [leaf, want] of Object.entries(leavesAt(stored, id)!)) {
        const [a, b] = [await toFloat32(leavesAt(made, id)![leaf]), await toFloat32(want)];
        assert(apart(a, b) < 5e-7, `${method} ${id} ${leaf}`);
      }
    }
    const lacking = new Map([...tensors].filter(([key]) => !ignored.includes(key)));
    await assertRejects(
      () => loadAdapter(base, { config, tensors: lacking }),
      GraftError,
      "missing",
    );
  }
});
