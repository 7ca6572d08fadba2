/** A method that PEFT does not have, written as a user of the library would write it: with nothing but what `mod.ts` exports. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  add,
  addAdapter,
  type AnyModel,
  checkTargets,
  commonFields,
  ConfigError,
  type ConfigSchema,
  createModel,
  defaultMethods,
  described,
  field,
  forward,
  type ForwardRule,
  fromPeftJson,
  generate,
  getAdapterStateDict,
  getPeftModel,
  type InitSource,
  loadAdapter,
  loraConfig,
  matmul,
  mergeAndUnload,
  type MethodRegistry,
  type ModelGraph,
  mul,
  openSafetensors,
  parseConfig,
  type PeftMethod,
  type PeftModel,
  planAdapter,
  registerPeftMethod,
  reshape,
  savePretrained,
  setAdapter,
  type Site,
  type SiteTrace,
  TargetError,
  targetFields,
  tensor,
  toPeftJson,
  train,
  trainableLeaves,
  transpose,
  UnsupportedError,
  type Value,
  withAdapterScale,
  withLeaves,
} from "../../mod.ts";
import type { TargetConfig } from "../../mod.ts";
import type { Device } from "../../mod.ts";
import { testOnDevices } from "../devices.ts";
import { inFolder } from "../io/folder.ts";

/** A gate on every output of a layer, and a low-rank update in units of what the layer's outputs weigh. */
interface LiftConfig extends TargetConfig {
  readonly rank: number;
  readonly gain: number;
  readonly startStd: number;
  readonly gated: boolean;
}

const liftSchema: ConfigSchema<LiftConfig> = {
  peftType: "LIFT",
  targets: { llama: ["o_proj"] },
  fields: {
    ...commonFields("LIFT"),
    ...targetFields(),
    rank: described(field.integer(4, 1), { json: "nDirections" }),
    gain: field.float(1),
    startStd: field.float(0.5),
    gated: field.boolean(true),
  },
  check(config) {
    checkTargets(config);
    if (config.gain === 0) {
      throw new ConfigError("CONFIG_GAIN", "With a gain of 0 an adapter would change nothing.");
    }
  },
};

function liftConfig(config: Partial<LiftConfig> = {}): LiftConfig {
  return parseConfig(liftSchema, config);
}

type Trace = SiteTrace<LiftConfig>;

/** The length of the weights of each output. */
async function weightLengths({ inFeatures, outFeatures }: Site, { weight }: InitSource) {
  const values = await weight();
  return Float32Array.from(
    { length: outFeatures },
    (_, o) => Math.hypot(...values.subarray(o * inFeatures, (o + 1) * inFeatures)),
  );
}

/** What the gate multiplies each output with, beyond 1. */
function gateOf({ leaves, multiplier }: Trace): Value | undefined {
  return leaves.lift_gate && mul(leaves.lift_gate, multiplier);
}

/** The rows of the up matrix in the size of the layer's own weights. */
function upOf({ leaves, config, multiplier }: Trace): Value {
  const up = mul(leaves.lift_up, reshape(leaves.lift_length, [-1, 1]));
  return mul(mul(up, config.gain), multiplier);
}

const rule: ForwardRule<LiftConfig> = {
  scales: true,
  forward(trace, { x, result }) {
    const gate = gateOf(trace);
    const gated = gate ? add(result, mul(result, gate)) : result;
    const low = matmul(x, trace.leaves.lift_down, { transposeB: true });
    return add(gated, matmul(low, upOf(trace), { transposeB: true }));
  },
  weight(trace, { weight, bias }) {
    const gate = gateOf(trace), linear = trace.site.kind === "linear";
    const change = matmul(upOf(trace), trace.leaves.lift_down);
    const scale = gate && reshape(gate, linear ? [-1, 1] : [1, -1]);
    return {
      weight: add(
        scale ? add(weight, mul(weight, scale)) : weight,
        linear ? change : transpose(change),
      ),
      ...(bias ? { bias: gate ? add(bias, mul(bias, gate)) : bias } : {}),
    };
  },
};

const lift: PeftMethod<LiftConfig> = {
  name: "lift",
  config: liftSchema,
  leaves: {
    site({ config: { rank, gated, startStd }, site }) {
      const { inFeatures, outFeatures } = site;
      const zeros = (...shape: number[]) => ({
        shape,
        init: () => new Float32Array(shape.reduce((n, d) => n * d, 1)),
      });
      return {
        ...(gated ? { lift_gate: zeros(outFeatures) } : {}),
        lift_down: {
          shape: [rank, inFeatures],
          key: "lift_down.weight",
          init: ({ random }) => random.normal(rank * inFeatures, { std: startStd }),
        },
        lift_up: { ...zeros(outFeatures, rank), key: "lift_up.weight" },
        lift_length: {
          shape: [outFeatures],
          kind: "fixed",
          init: (from) => weightLengths(site, from),
        },
      };
    },
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};

const registry = registerPeftMethod(defaultMethods, lift);

const LLAMA = {
  model_type: "llama",
  vocab_size: 41,
  hidden_size: 24,
  intermediate_size: 36,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  max_position_embeddings: 64,
  initializer_range: 0.3,
};
const GPT2 = {
  model_type: "gpt2",
  vocab_size: 41,
  n_embd: 24,
  n_layer: 2,
  n_head: 3,
  n_positions: 64,
  initializer_range: 0.3,
};
const BATCH = { inputIds: [[3, 14, 15, 9, 26, 5, 35], [8, 9, 7, 9, 32, 3, 8]] };
const TARGETS = ["o_proj", "gate_proj"];

async function logits(model: AnyModel): Promise<Float32Array> {
  return await (await forward(model, BATCH)).logits.data() as Float32Array;
}

function distance(a: Float32Array, b: Float32Array): number {
  assertEquals(a.length, b.length);
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
}

/** The model with leaves that are all different from 0. */
function stirred(model: PeftModel): PeftModel {
  const leaves = [...trainableLeaves(model)].map(([name, { shape }], n) => {
    const size = shape.reduce((product, d) => product * d, 1);
    const values = Float32Array.from({ length: size }, (_, i) => 0.3 * Math.sin(7 * i + n + 1));
    return [name, tensor(values, { shape })] as const;
  });
  return withLeaves(model, new Map(leaves));
}

/** Forgets what the compiler knows of an error. */
function codeOf(error: Error): string {
  return (error as UnsupportedError).code;
}

Deno.test("its config has defaults, checks, and names in the file", () => {
  const config = liftConfig({ targetModules: TARGETS, rank: 2, gain: 2 });
  assertEquals([config.rank, config.gain, config.startStd, config.gated], [2, 2, 0.5, true]);
  assert(Object.isFrozen(config));
  const json = toPeftJson(config, { registry });
  assert(json.includes('\n  "gain": 2.0,'), json);
  assert(json.includes('\n  "nDirections": 2,'), json);
  assert(json.includes('\n  "start_std": 0.5,'), json);
  assertEquals(fromPeftJson(JSON.parse(json), { registry }), {
    ...config,
    inferenceMode: true,
  });
  const cases: [() => unknown, string][] = [
    [() => liftConfig({ ranks: 3 } as never), 'no field "ranks" (nearest: rank'],
    [() => liftConfig({ rank: 0 }), "rank (nDirections in adapter_config.json) of a LIFT config"],
    [() => liftConfig({ gain: 0 }), "gain of 0"],
    [() => liftConfig({ targetModules: ".*", layersToTransform: [0] }), "layersToTransform"],
    [
      () => fromPeftJson({ peft_type: "LIFT", rank: 3 }, { registry }),
      'no field "rank"',
    ],
  ];
  for (const [use, message] of cases) assertThrows(use, ConfigError, message);
});

Deno.test("without its registry it is not known, and the error says so", async () => {
  const base = await createModel(LLAMA, { device: "cpu", threads: 1 });
  using _device = base.device;
  const config = liftConfig({ targetModules: TARGETS });
  const model = stirred(getPeftModel(base, config, { registry }));
  await inFolder(async (folder) => {
    await savePretrained(model, folder, { registry });
    const uses: (() => unknown)[] = [
      () => planAdapter(base, config),
      () => getPeftModel(base, config),
      () => addAdapter(model, "second", config),
      () => fromPeftJson({ peft_type: "LIFT" }),
      () => loadAdapter(base, folder),
      () => loadAdapter(base, { config, tensors: getAdapterStateDict(model) }),
    ];
    for (const use of uses) {
      const error = await assertRejects(
        async () => await use(),
        UnsupportedError,
        'No PEFT method of the type "LIFT" is registered',
      );
      assertEquals(codeOf(error), "METHOD_UNKNOWN");
    }
  });
});

Deno.test("a plan tells what it would adapt and train", async () => {
  const base = await createModel(LLAMA, { device: "cpu", threads: 1 });
  using _device = base.device;
  const plan = planAdapter(base, liftConfig({ targetModules: TARGETS, rank: 2 }), { registry });
  assertEquals(plan.problems, []);
  assertEquals(plan.sites.map(({ site }) => site.path), [
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.mlp.gate_proj",
    "model.layers.1.self_attn.o_proj",
    "model.layers.1.mlp.gate_proj",
  ]);
  assertEquals(plan.sites[1].leaves, {
    lift_gate: [36],
    lift_down: [2, 24],
    lift_up: [36, 2],
  });
  assertEquals(plan.trainableParameters, 2 * (24 + 48 + 48 + 36 + 48 + 72));
  assertEquals(plan.frozenBytes, 4 * 2 * (24 + 36));
  // Its own usual targets; and what it cannot adapt.
  assertEquals(planAdapter(base, liftConfig(), { registry }).sites.length, 2);
  const embedding = planAdapter(base, liftConfig({ targetModules: ["embed_tokens"] }), {
    registry,
  });
  assert(embedding.problems[0] instanceof TargetError);
  assertThrows(
    () => getPeftModel(base, liftConfig({ targetModules: ["w_proj"] }), { registry }),
    TargetError,
    "w_proj",
  );
});

async function trains(base: ModelGraph): Promise<PeftModel> {
  const config = liftConfig({ targetModules: TARGETS, rank: 3, gain: 1.5, taskType: "CAUSAL_LM" });
  const model = getPeftModel(base, config, { registry, adapterName: "lifted" });
  const before = await logits(base);
  assert(distance(await logits(model), before) < 1e-5, "it starts as the base");
  const { model: trained, history } = await train(model, [{ ...BATCH, labels: BATCH.inputIds }], {
    learningRate: 0.03,
    steps: 12,
  });
  const [first, last] = [history[0].loss, history[11].loss];
  assert(last < 0.6 * first, `the loss went from ${first} to ${last}`);
  assert(distance(await logits(trained), before) > 0.1, "training changes it");
  assert(distance(await logits(model), before) < 1e-5, "the model before stays as it was");
  for (const [name, { data }] of trainableLeaves(trained)) {
    assert((await data()).some((x) => x !== 0), `${name} is trained`);
  }
  return trained;
}

async function savesAndLoads(trained: PeftModel, other: ModelGraph): Promise<void> {
  const wanted = await logits(trained);
  await inFolder(async (folder) => {
    await savePretrained(trained, folder, { registry });
    const at = `${folder}/lifted`;
    const { tensors } = await openSafetensors(`${at}/adapter_model.safetensors`);
    const first = "base_model.model.model.layers.0.self_attn.o_proj.";
    assertEquals([...tensors.keys()].filter((key) => key.startsWith(first)).sort(), [
      `${first}lift_down.weight`,
      `${first}lift_gate`,
      `${first}lift_up.weight`,
    ]);
    assertEquals(tensors.size, 12, "fixed leaves are not in the file");
    const json = JSON.parse(await Deno.readTextFile(`${at}/adapter_config.json`));
    assertEquals([json.peft_type, json.nDirections, json.gain], ["LIFT", 3, 1.5]);

    let report: { regenerated: readonly string[] } | undefined;
    const loaded = await loadAdapter(other, at, { registry, onReport: (r) => report = r });
    assertEquals(report!.regenerated.length, 4);
    assert(report!.regenerated[0].endsWith("lift_length"));
    assert(distance(await logits(loaded), wanted) < 1e-5, "it gives what it gave");
    // Beside an adapter of another method.
    const beside = await loadAdapter(
      getPeftModel(other, loraConfig({ r: 2, initLoraWeights: false })),
      at,
      { registry, adapterName: "lifted" },
    );
    assert(distance(await logits(beside), wanted) > 1e-2);
    assert(distance(await logits(setAdapter(beside, "lifted")), wanted) < 1e-5);
    // From memory.
    const parts = { config: json, tensors: getAdapterStateDict(trained, "lifted") };
    assert(distance(await logits(await loadAdapter(other, parts, { registry })), wanted) < 1e-5);
  });
}

async function merges(model: PeftModel): Promise<void> {
  const own = await logits(model);
  assert(distance(await logits(mergeAndUnload(model)), own) < 2e-4, "merged as unmerged");
  const { value: [half, merged] } = await withAdapterScale(
    model,
    0.5,
    async (scaled) => [await logits(scaled), await logits(mergeAndUnload(scaled))],
  );
  assert(distance(half, own) > 1e-2, "the scale counts");
  assert(distance(half, merged) < 2e-4, "merged as unmerged at half the scale");
}

testOnDevices("it trains, is saved, loaded and merged", async (device: Device) => {
  const base = await createModel(LLAMA, { device, seed: 3 });
  const trained = await trains(base);
  await savesAndLoads(trained, await createModel(LLAMA, { device, seed: 3 }));
  await merges(stirred(trained));
  const prompt = [5, 6, 7], options = { maxNewTokens: 5, eosTokenId: [] };
  assertEquals(
    (await generate(trained, prompt, options)).tokenIds,
    (await generate(mergeAndUnload(trained), prompt, options)).tokenIds,
  );
});

testOnDevices("it works where weights are stored the other way round", async (device: Device) => {
  const base = await createModel(GPT2, { device, seed: 4 });
  for (const gated of [true, false]) {
    const config = liftConfig({ targetModules: ["c_attn", "mlp.c_proj"], gated, gain: -0.7 });
    await merges(stirred(getPeftModel(base, config, { registry })));
  }
});

testOnDevices(
  "it is active beside LoRA where its config says that it can be",
  async (device: Device) => {
    const base = await createModel(LLAMA, { device, seed: 3 });
    const both = (methods: MethodRegistry) => {
      const config = liftConfig({ targetModules: TARGETS });
      const lifted = stirred(getPeftModel(base, config, { registry: methods }));
      const plain = loraConfig({ r: 2, targetModules: TARGETS, initLoraWeights: false });
      return setAdapter(addAdapter(lifted, "lora", plain), ["default", "lora"]);
    };
    const error = assertThrows(() => both(registry), UnsupportedError, "LIFT");
    assertEquals(codeOf(error), "ADAPTERS_MIXED");
    const mixing = { ...lift, config: { ...liftSchema, mixes: true } };
    const model = both(registerPeftMethod(defaultMethods, mixing));
    const own = await logits(model);
    assert(distance(await logits(mergeAndUnload(model)), own) < 2e-4, "merged as unmerged");
    for (const name of ["default", "lora"]) {
      assert(distance(await logits(setAdapter(model, name)), own) > 1e-2, `${name} alone differs`);
    }
    // A gate also multiplies what comes before it.
    assert(distance(await logits(setAdapter(model, ["lora", "default"])), own) > 1e-3);
  },
);

testOnDevices("its rows and LoRA's run in one batch", async (device: Device) => {
  const base = await createModel(LLAMA, { device, seed: 3 });
  const lifted = stirred(getPeftModel(base, liftConfig({ targetModules: TARGETS }), { registry }));
  const model = addAdapter(lifted, "lora", loraConfig({ r: 2, initLoraWeights: false }));
  const rows = async (of: AnyModel, adapterNames?: readonly string[]) => {
    const { logits } = await forward(of, { ...BATCH, adapterNames });
    const data = await logits.data() as Float32Array, half = data.length / 2;
    return [data.subarray(0, half), data.subarray(half)];
  };
  const alone = {
    default: await rows(lifted),
    lora: await rows(setAdapter(model, "lora")),
    __base__: await rows(base),
  };
  const kinds = ["default", "lora", "__base__"] as const;
  for (const names of [[kinds[0], kinds[1]], [kinds[2], kinds[0]]]) {
    const mixed = await rows(model, names);
    names.forEach((name, row) => {
      assert(distance(mixed[row], alone[name][row]) < 1e-4, `${name} in row ${row}`);
    });
  }
  assert(distance(alone.default[0], alone.lora[0]) > 1e-2);
});

testOnDevices("checkpoints of a run are written and resumed", async (device: Device) => {
  const base = await createModel(LLAMA, { device, seed: 3 });
  const model = getPeftModel(base, liftConfig({ rank: 2 }), { registry });
  const data = [{ ...BATCH, labels: BATCH.inputIds }];
  await inFolder(async (folder) => {
    const options = { learningRate: 0.02 };
    const checkpoint = { folder: `${folder}/run`, every: 2 };
    const whole = await train(model, data, { ...options, steps: 4 });
    const half = await train(model, data, { ...options, steps: 2, checkpoint });
    const resumed = await train(model, data, { ...options, steps: 4, resume: half.checkpoint });
    assert(distance(await logits(resumed.model), await logits(whole.model)) < 1e-5);
  });
});
