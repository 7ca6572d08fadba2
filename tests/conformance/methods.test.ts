/**
 * Walks the registry: what every PEFT method promises, on every kind of base. A new method adds no
 * code here.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../lib/adapters/leaves.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { mergeAndUnload, unload } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel, PeftModel } from "../../lib/adapters/peft-model.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { disableAdapters, setAdapter } from "../../lib/adapters/select.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { getNbTrainableParameters } from "../../lib/adapters/status/trainable-parameters.ts";
import { addWeightedAdapter } from "../../lib/adapters/combine/weighted-adapter.ts";
import type { Device } from "../../lib/device/device.ts";
import { TargetError, UnsupportedError, ValueError } from "../../lib/errors.ts";
import { generate } from "../../lib/generation/generate.ts";
import type { PeftConfig } from "../../lib/methods/config.ts";
import { defaultMethods, type PeftMethodEntry } from "../../lib/methods/mod.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import { inFolder } from "../io/folder.ts";

const INPUTS = { inputIds: [[5, 41, 3, 60, 7, 22], [9, 9, 12, 0, 33, 1]] };
const LABELLED = { ...INPUTS, labels: INPUTS.inputIds };
const TARGETS: Readonly<Record<string, readonly string[]>> = {
  llama: ["q_proj", "down_proj"],
  gpt2: ["c_attn", "c_proj"],
};

/** The method's defaults, with what has none: targets, and a number of virtual tokens. */
function configOf(entry: PeftMethodEntry, kind: string, fields: object = {}): PeftConfig {
  const has = (name: string) => name in entry.config.fields;
  return entry.method.parseConfig({
    taskType: "CAUSAL_LM",
    ...(has("targetModules") ? { targetModules: TARGETS[kind] } : {}),
    ...(has("feedforwardModules") ? { feedforwardModules: TARGETS[kind].slice(1) } : {}),
    ...(has("numVirtualTokens") ? { numVirtualTokens: 3 } : {}),
    ...fields,
  });
}

async function logitsOf(model: AnyModel, inputs: object = INPUTS): Promise<Float32Array> {
  return (await toFloat32((await forward(model, { ...INPUTS, ...inputs })).logits)).slice();
}

function apart(a: Float32Array, b: Float32Array): number {
  const largest = Math.max(...b.map(Math.abs));
  return Math.max(...a.map((x, i) => Math.abs(x - b[i]))) / largest;
}

async function lossOf(model: PeftModel): Promise<number> {
  return (await forward(model, LABELLED)).loss!;
}

/** The change of the loss along a random direction, and how large the direction is. */
async function slopes(
  model: PeftModel,
): Promise<{ readonly measured: number; readonly direction: ReadonlyMap<string, Float32Array> }> {
  const random = createTorchRandom(11);
  const direction = new Map<string, Float32Array>();
  for (const [name, { shape }] of trainableLeaves(model)) {
    direction.set(name, Float32Array.from(random.normal(shape.reduce((n, d) => n * d, 1))));
  }
  const moved = async (step: number) => {
    const leaves = new Map<string, Tensor>();
    for (const [name, leaf] of trainableLeaves(model)) {
      const values = await toFloat32(leaf);
      const d = direction.get(name)!;
      leaves.set(name, tensor(values.map((x, i) => x + step * d[i]), { shape: leaf.shape }));
    }
    return await lossOf(withLeaves(model, leaves));
  };
  const step = 2e-3;
  // Four points: what the step is too large for cancels.
  const [a, b, c, d] = [
    await moved(-2 * step),
    await moved(-step),
    await moved(step),
    await moved(
      2 * step,
    ),
  ];
  return { measured: (a - 8 * b + 8 * c - d) / (12 * step), direction };
}

async function makeModel(
  entry: PeftMethodEntry,
  of: { readonly kind: string; readonly device: Device; readonly fields?: object },
): Promise<PeftModel> {
  const base = await goldenBase(of.kind, of.device);
  return getPeftModel(base, configOf(entry, of.kind, of.fields), { seed: 3 });
}

for (const entry of defaultMethods.values()) {
  const { method, name } = entry;
  for (const kind of Object.keys(TARGETS)) {
    const what = `${method.peftType} on ${kind}`;

    testOnceOnWebGpu(`${what}: starts as it promises, and is the base when off`, async (device) => {
      const model = await makeModel(entry, { kind, device });
      const base = await logitsOf(model.base);
      const start = apart(await logitsOf(model), base);
      if (method.isIdentityAtInit) assert(start < 1e-6, `${start} off the base`);
      const moved = await randomized(model);
      const adapted = await logitsOf(moved);
      assert(apart(adapted, base) > 1e-3, "random leaves change the outputs");
      assertEquals(await logitsOf(disableAdapters(moved)), base);
      assertEquals(await logitsOf(unload(moved)), base);
    });

    testOnceOnWebGpu(`${what}: merged is unmerged, or refused`, async (device) => {
      const model = await randomized(await makeModel(entry, { kind, device }));
      if (!method.merge) {
        assertThrows(() => mergeAndUnload(model), UnsupportedError, method.peftType);
        return;
      }
      const merged = await logitsOf(mergeAndUnload(model));
      const wanted = await logitsOf(model);
      assert(apart(merged, wanted) < 2e-5, `${apart(merged, wanted)} apart`);
    });

    testOnceOnWebGpu(
      `${what}: gradients are those that finite differences give`,
      async (device) => {
        const model = await randomized(await makeModel(entry, { kind, device }));
        const { measured, direction } = await slopes(model);
        const gradient = await gradientAlong(model, direction);
        const scale = Math.max(Math.abs(measured), 1e-2);
        assert(
          Math.abs(gradient - measured) / scale < 2e-2,
          `${gradient} instead of ${measured}`,
        );
      },
    );

    testOnceOnWebGpu(`${what}: trains, saves and loads`, async (device) => {
      const model = await makeModel(entry, { kind, device });
      const start = await lossOf(model);
      const { model: trained } = await train(model, [LABELLED], {
        learningRate: 2e-2,
        steps: 12,
      });
      const end = await lossOf(trained);
      assert(end < start, `${start} to ${end}`);
      await inFolder(async (folder) => {
        await savePretrained(trained, folder);
        const base = await goldenBase(kind, device);
        const again = await loadAdapter(base, folder);
        const difference = apart(await logitsOf(again), await logitsOf(trained));
        assert(difference < 1e-6, `${difference} apart after loading`);
        assertEquals(
          [...getAdapterStateDict(again).keys()].sort(),
          [...getAdapterStateDict(trained).keys()].sort(),
        );
        const written = JSON.parse(await Deno.readTextFile(`${folder}/adapter_config.json`));
        assertEquals(JSON.parse(toPeftJson(fromPeftJson(written))), written);
        const { model: put } = await setAdapterStateDict(again, getAdapterStateDict(trained));
        assertEquals(await logitsOf(put), await logitsOf(again));
      });
    });

    testOnceOnWebGpu(`${what}: rows of a mixed batch are as alone, or refused`, async (device) => {
      const one = await makeModel(entry, { kind, device });
      const two = addAdapter(one, "other", configOf(entry, kind), { seed: 8 });
      const model = await randomized(two);
      const adapterNames = ["other", "default"];
      if (method.cachePrefix) {
        await assertRejects(() => forward(model, { ...INPUTS, adapterNames }), UnsupportedError);
        return;
      }
      const mixed = await logitsOf(model, { adapterNames });
      const size = mixed.length / 2;
      for (const [row, adapter] of adapterNames.entries()) {
        const alone = await logitsOf(setAdapter(model, adapter));
        const cut = (values: Float32Array) => values.subarray(row * size, (row + 1) * size);
        assert(apart(cut(mixed), cut(alone)) < 2e-5, `row ${row}`);
      }
      assert(apart(mixed.subarray(0, size), await firstRow(setAdapter(model, "default"))) > 1e-3);
    });

    testOnceOnWebGpu(`${what}: generates what repeated forward passes give`, async (device) => {
      const model = await randomized(await makeModel(entry, { kind, device }));
      const ids = [...INPUTS.inputIds[0]];
      for (let i = 0; i < 4; i++) {
        const { logits } = await forward(model, { inputIds: [ids] });
        const values = await toFloat32(logits);
        const last = values.subarray(values.length - logits.shape[2]);
        ids.push(last.indexOf(Math.max(...last)));
      }
      const { tokenIds } = await generate(model, INPUTS.inputIds[0], {
        maxNewTokens: 4,
        eosTokenId: [],
      });
      assertEquals(tokenIds, ids.slice(INPUTS.inputIds[0].length));
    });
  }

  testOnceOnWebGpu(
    `${method.peftType}: is scaled, or says that it has no scale`,
    async (device) => {
      const model = await randomized(await makeModel(entry, { kind: "llama", device }));
      if (!method.isScalable) {
        await assertRejects(
          () => withAdapterScale(model, 2, logitsOf),
          ValueError,
          method.peftType,
        );
        return;
      }
      const base = await logitsOf(model.base);
      const { value: none } = await withAdapterScale(model, 0, (m) => logitsOf(m));
      assert(apart(none, base) < 1e-6);
      const { value: same } = await withAdapterScale(model, 1, (m) => logitsOf(m));
      assert(apart(same, await logitsOf(model)) < 1e-6);
      const { value: half } = await withAdapterScale(model, -0.5, async (m) => {
        assert(apart(await logitsOf(mergeAndUnload(m)), await logitsOf(m)) < 2e-5, "merges scaled");
        return await logitsOf(m);
      });
      assert(apart(half, base) > 1e-3);
    },
  );

  testOnceOnWebGpu(`${method.peftType}: combines, or refuses to`, async (device) => {
    const one = await makeModel(entry, { kind: "llama", device });
    const two = addAdapter(one, "other", configOf(entry, "llama"), { seed: 8 });
    const model = await randomized(two);
    const add = () =>
      addWeightedAdapter(model, {
        adapters: ["default", "other"],
        weights: [0.75, -0.5],
        adapterName: "both",
        combinationType: "linear",
      });
    if (!method.combine) {
      assertThrows(add, UnsupportedError, method.peftType);
      return;
    }
    const combined = setAdapter(add(), "both");
    assert((await logitsOf(combined)).every(Number.isFinite));
    assertEquals(getNbTrainableParameters(combined).trainable > 0, true);
  });

  Deno.test(`${method.peftType}: names that do not exist are refused`, async () => {
    const base = await goldenBase("llama");
    if (!("targetModules" in entry.config.fields)) return;
    const config = configOf(entry, "llama", {
      targetModules: ["w_proj"],
      ...("feedforwardModules" in entry.config.fields ? { feedforwardModules: [] } : {}),
    });
    const error = assertThrows(() => getPeftModel(base, config), TargetError);
    assert(error.message.includes("Nearest"), error.message);
    assertEquals(planAdapter(base, config).unmatched.length, 1);
    assertThrows(() => configOf(entry, "llama", { nonsense: 1 }), ValueError, "nonsense");
    assertEquals(entry.method.prefix, entry.prefix);
    assertEquals(name.toUpperCase(), method.peftType);
  });
}

async function firstRow(model: AnyModel): Promise<Float32Array> {
  const values = await logitsOf(model);
  return values.subarray(0, values.length / 2);
}

/** The loss's gradient along a direction. */
async function gradientAlong(
  model: PeftModel,
  direction: ReadonlyMap<string, Float32Array>,
): Promise<number> {
  const { gradients } = await computeGradients(model, LABELLED);
  assertEquals([...gradients.keys()], [...direction.keys()]);
  let sum = 0;
  for (const [leaf, gradient] of gradients) {
    const d = direction.get(leaf)!;
    (await toFloat32(gradient)).forEach((g, i) => sum += g * d[i]);
  }
  return sum;
}
