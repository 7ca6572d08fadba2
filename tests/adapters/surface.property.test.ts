/**
 * Whatever is done with a model, the model stays what it is.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import * as graft from "../../mod.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import type { Device } from "../../lib/device/device.ts";
import { randomUniform } from "../../lib/tensor/random.ts";
import { testOnDevices } from "../devices.ts";
import { goldenBase } from "./bases.ts";
import { randomized } from "./randomized.ts";

type PeftModel = graft.PeftModel;

const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };
const CALLS = 200;

/** Draws that follow from a seed. */
interface Draw {
  /** A whole number below `n`. */
  below(n: number): number;
  /** One of these. */
  of<T>(values: readonly T[]): T;
}

function drawer(seed: number): Draw {
  let index = 0;
  const below = (n: number) => Math.floor(randomUniform({ seed, stream: 0, index: index++ }) * n);
  return { below, of: (values) => values[below(values.length)] };
}

const names = (model: PeftModel) => [...model.adapters.keys()];

/** Some configs of every method that the registry holds. */
function someConfig(draw: Draw): graft.PeftConfig {
  return draw.of([
    () => graft.loraConfig({ r: 1 + draw.below(4), initLoraWeights: false }),
    () => graft.loraConfig({ r: 2, useDora: true, targetModules: ["o_proj", "up_proj"] }),
    () => graft.loraConfig({ targetModules: ["q_proj"], modulesToSave: ["lm_head"] }),
    () => graft.loraConfig({ targetModules: "all-linear", trainableTokenIndices: [4, 9] }),
    () =>
      graft.ia3Config({
        targetModules: ["k_proj", "down_proj"],
        feedforwardModules: ["down_proj"],
      }),
    () => graft.veraConfig({ r: 5, targetModules: ["q_proj", "v_proj"] }),
    () => graft.prefixTuningConfig({ numVirtualTokens: 2, taskType: "CAUSAL_LM" }),
  ])();
}

type Call = (
  model: PeftModel,
  draw: Draw,
) => PeftModel | Promise<PeftModel> | undefined | Promise<undefined>;

const looked = async (...values: readonly unknown[]): Promise<undefined> => {
  await Promise.all(values);
  return undefined;
};

/** The surface: what gives a model gives it back, what only looks gives nothing. */
const SURFACE: Readonly<Record<string, Call>> = {
  getPeftModel: (model, draw) => graft.getPeftModel(graft.getBaseModel(model), someConfig(draw)),
  addAdapter: (model, draw) =>
    graft.addAdapter(model, `n${draw.below(12)}`, someConfig(draw), { seed: draw.below(9) }),
  deleteAdapter: (model, draw) => graft.deleteAdapter(model, draw.of(names(model))),
  setAdapter: (model, draw) => graft.setAdapter(model, draw.of(names(model))),
  setAdapters: (model, draw) =>
    graft.setAdapter(model, names(model).filter(() => draw.below(2) === 0), { train: [] }),
  setRequiresGrad: (model, draw) =>
    graft.setRequiresGrad(model, draw.of(names(model)), draw.below(2) === 0),
  enableAdapters: graft.enableAdapters,
  disableAdapters: graft.disableAdapters,
  withAdapterScale: async (model, draw) =>
    (await graft.withAdapterScale(model, draw.below(5) / 2, (m) => m)).value,
  withAdaptersDisabled: async (model) => (await graft.withAdaptersDisabled(model, (m) => m)).value,
  withActiveAdapters: async (model, draw) =>
    (await graft.withActiveAdapters(model, draw.of(names(model)), (m) => m)).value,
  withoutInputDtypeCasting: async (model) =>
    (await graft.withoutInputDtypeCasting(model, (m) => m)).value,
  withLeaves: (model) => randomized(model, 3),
  setAdapterStateDict: async (model, draw) => {
    const adapterName = draw.of(names(model));
    const tensors = graft.getAdapterStateDict(model, adapterName);
    const halved = new Map(
      await Promise.all([...tensors].map(async ([key, { shape, ...leaf }]) =>
        [
          key,
          graft.tensor((await toFloat32({ shape, ...leaf })).map((x) => x / 2), { shape }),
        ] as const
      )),
    );
    return (await graft.setAdapterStateDict(model, halved, { adapterName })).model;
  },
  loadAdapter: (model, draw) => {
    const from = draw.of(names(model));
    const { config } = model.adapters.get(from)!;
    const tensors = graft.getAdapterStateDict(model, from);
    return graft.loadAdapter(model, { config, tensors }, { adapterName: `l${draw.below(9)}` });
  },
  mergeAdapter: (model) => graft.mergeAdapter(model),
  unmergeAdapter: (model) => graft.unmergeAdapter(model),
  mergeAndUnload: (model) => graft.getPeftModel(graft.mergeAndUnload(model), graft.loraConfig()),
  unload: (model) => graft.getPeftModel(graft.unload(model), graft.loraConfig()),
  addWeightedAdapter: (model, draw) =>
    graft.addWeightedAdapter(model, {
      adapters: names(model).slice(0, 2),
      weights: [0.5, -1].slice(0, names(model).length),
      adapterName: `w${draw.below(9)}`,
      combinationType: draw.of(["linear", "cat", "ties"]),
      density: 0.5,
    }),
  scaleAdapter: (model, draw) => graft.scaleAdapter(model, draw.of(names(model)), { factor: -0.5 }),
  addAdapters: (model, draw) =>
    graft.addAdapters(model, names(model).slice(0, 2), { as: `a${draw.below(9)}` }),
  compressAdapter: async (model, draw) =>
    (await graft.compressAdapter(model, draw.of(names(model)), { rank: 1 })).model,
  convertToLora: async (model, draw) => {
    const parts = await graft.convertToLora(model, { adapterName: draw.of(names(model)), rank: 2 });
    return graft.loadAdapter(model, parts, { adapterName: `c${draw.below(9)}` });
  },
  swapAdapter: (model, draw) => {
    const other = graft.getPeftModel(graft.getBaseModel(model), someConfig(draw), { seed: 7 });
    return graft.swapAdapter(model, other, { adapterName: draw.of(names(model)) });
  },
  prepareModelForCompiledHotswap: (model) =>
    graft.prepareModelForCompiledHotswap(model, { targetRank: 5 }),
  certified: async (model) => {
    const { model: merged } = await graft.mergeAdapter(model, { certificate: true, dtype: "bf16" });
    return merged;
  },
  updateSignature: (model) => graft.updateSignature(model),
  train: async (model) => {
    const options = { learningRate: 1e-2, steps: 1, maxGradientNorm: 1 };
    return (await graft.train(model, [INPUTS], options)).model;
  },
  forward: (model) => looked(graft.forward(model, INPUTS)),
  mixed: (model, draw) =>
    looked(
      graft.forward(model, {
        ...INPUTS,
        adapterNames: INPUTS.inputIds.map(() => draw.of(["__base__", ...names(model)])),
      }),
    ),
  generate: (model) => looked(graft.generate(model, [5, 6], { maxNewTokens: 2 })),
  status: (model) => looked(graft.getLayerStatus(model), graft.getModelStatus(model)),
  parameters: (model) => looked(graft.getNbTrainableParameters(model)),
};

interface Snapshot {
  readonly logits: Float32Array;
  readonly base: string;
  readonly leaves: readonly (readonly [string, readonly number[]])[];
}

async function snapshot(model: PeftModel): Promise<Snapshot> {
  const { logits } = await graft.forward(model, INPUTS);
  const leaves: [string, readonly number[]][] = [];
  for (const name of names(model)) {
    for (const [key, leaf] of graft.getAdapterStateDict(model, name)) {
      leaves.push([`${name} ${key}`, [...await toFloat32(leaf)]]);
    }
  }
  // A digest is kept for as long as its model lives: that of a copy is computed anew.
  const base = await graft.hashBase({ ...graft.getBaseModel(model) });
  return { logits: (await toFloat32(logits)).slice(), base, leaves };
}

async function firstModel(device: Device): Promise<PeftModel> {
  const base = await goldenBase("llama", device);
  const one = graft.getPeftModel(base, graft.loraConfig({ r: 3, targetModules: "all-linear" }));
  const two = graft.addAdapter(one, "dora", graft.loraConfig({ r: 2, useDora: true }));
  return await randomized(graft.setAdapter(two, ["default", "dora"]));
}

testOnDevices(`after any ${CALLS} calls the first model is what it was`, async (device) => {
  const seeds = device.kind === "cpu" ? [1, 2, 3] : [4];
  const succeeded = new Map<string, number>();
  for (const seed of seeds) {
    const draw = drawer(seed);
    const first = await firstModel(device);
    const before = await snapshot(first);
    const models = [first];
    for (let i = 0; i < CALLS; i++) {
      const name = draw.of(Object.keys(SURFACE));
      const model = draw.below(4) === 0 ? first : draw.of(models);
      try {
        const next = await SURFACE[name](model, draw);
        if (next) models.push(next);
        succeeded.set(name, (succeeded.get(name) ?? 0) + 1);
      } catch (error) {
        // What cannot be done says so; nothing else is thrown.
        const typed = error instanceof graft.GraftError;
        assert(typed, `call ${i}, ${name}: ${error instanceof Error ? error.stack : error}`);
      }
    }
    const after = await snapshot(first);
    assertEquals(after.base, before.base);
    assertEquals(after.logits, before.logits);
    assertEquals(after.leaves, before.leaves);
  }
  // One seed is too few for every kind of call to succeed.
  if (seeds.length === 1) return;
  const never = Object.keys(SURFACE).filter((name) => !succeeded.has(name));
  assertEquals(never, [], "every call succeeded at least once");
});
