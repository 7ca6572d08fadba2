/**
 * Walks the registry: what every PEFT method promises, on every kind of base. A new method adds no
 * code here. What golden cases run on WebGPU (forward passes, merging, gradients) runs on the CPU
 * alone here; training, generating and both ways of a delta on WebGPU, too.
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
import { parseConfig, type PeftConfig } from "../../lib/methods/config.ts";
import type { PeftMethod } from "../../lib/methods/method.ts";
import { isMergeable, isScalable, siteKinds } from "../../lib/methods/site-rule.ts";
import { defaultMethods, prefixOf } from "../../lib/methods/mod.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import type { SiteKind } from "../../lib/model/site.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { withDeltas } from "../adapters/with-deltas.ts";
import { testOnceOnWebGpu, testOnCpu } from "../devices.ts";
import { inFolder } from "../io/folder.ts";

const INPUTS = { inputIds: [[5, 41, 3, 60, 7, 22], [9, 9, 12, 0, 33, 1]] };
const LABELLED = { ...INPUTS, labels: INPUTS.inputIds };
/** What can be adapted of each base by kind of site; the first kind that a method names is. */
const TARGETS: Readonly<Record<string, Readonly<Partial<Record<SiteKind, readonly string[]>>>>> = {
  llama: {
    linear: ["q_proj", "down_proj"],
    embedding: ["embed_tokens"],
    norm: ["input_layernorm", "norm"],
  },
  gpt2: { conv1d: ["c_attn", "c_proj"], embedding: ["wte"], norm: ["ln_1", "ln_f"] },
};

function targetsOf(method: PeftMethod, kind: string): readonly string[] {
  const config = parseConfig(method.config, method.config.example ?? {});
  return siteKinds({ method, config }).flatMap((site) =>
    TARGETS[kind][site] ? [TARGETS[kind][site]] : []
  )[0] ?? [];
}

/** The method's own example, with targets where it has any. */
function configOf(method: PeftMethod, kind: string, fields: object = {}): PeftConfig {
  const targetModules = targetsOf(method, kind);
  return parseConfig(method.config, {
    taskType: "CAUSAL_LM",
    ...(targetModules.length ? { targetModules } : {}),
    ...method.config.example,
    ...fields,
  });
}

/** Values for the parts of a batch that a method asks for: a different one in each row. */
function partsOf(method: PeftMethod, rows: number): object {
  const config = parseConfig(method.config, method.config.example ?? {});
  return Object.fromEntries(
    (method.pass?.inputs?.(config) ?? []).map(({ name, from = 0, to = from }) => [
      name,
      Array.from({ length: rows }, (_, row) => from + row % (to - from + 1)),
    ]),
  );
}

/** The inputs with what active adapters ask for beside them. */
function complete<T extends { readonly inputIds: readonly unknown[] }>(
  model: AnyModel,
  inputs: T,
): T {
  const adapters = model.type === "peft" && model.enabled ? [...model.adapters.values()] : [];
  return Object.assign(
    { ...inputs },
    ...adapters.map(({ method }) => partsOf(method, inputs.inputIds.length)),
  );
}

async function logitsOf(model: AnyModel, inputs: object = INPUTS): Promise<Float32Array> {
  const all = complete(model, { ...INPUTS, ...inputs });
  return (await toFloat32((await forward(model, all)).logits)).slice();
}

function apart(a: Float32Array, b: Float32Array): number {
  const largest = Math.max(...b.map(Math.abs));
  return Math.max(...a.map((x, i) => Math.abs(x - b[i]))) / largest;
}

async function lossOf(model: PeftModel): Promise<number> {
  return (await forward(model, complete(model, LABELLED))).loss!;
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
  method: PeftMethod,
  of: { readonly kind: string; readonly device: Device; readonly fields?: object },
): Promise<PeftModel> {
  const base = await goldenBase(of.kind, of.device);
  return getPeftModel(base, configOf(method, of.kind, of.fields), { seed: 3 });
}

for (const method of defaultMethods.values()) {
  const { name, config: { peftType } } = method;
  for (const kind of Object.keys(TARGETS)) {
    const what = `${peftType} on ${kind}`;
    // Some adapt nothing that a base has.
    if (method.sites && !method.config.select && targetsOf(method, kind).length === 0) continue;

    testOnCpu(`${what}: starts as it promises, and is the base when off`, async (device) => {
      const model = await makeModel(method, { kind, device });
      const base = await logitsOf(model.base);
      if (method.config.isIdentityAtInit) {
        const start = apart(await logitsOf(model), base);
        assert(start < 1e-6, `${start} off the base`);
      }
      const moved = await randomized(model);
      const adapted = await logitsOf(moved);
      // Virtual tokens among the others have outputs of their own.
      const longer = adapted.length > base.length;
      assert(longer || apart(adapted, base) > 1e-3, "random leaves change the outputs");
      assertEquals(await logitsOf(disableAdapters(moved)), base);
      assertEquals(await logitsOf(unload(moved)), base);
    });

    testOnCpu(`${what}: merged is unmerged, or refused`, async (device) => {
      const model = await randomized(await makeModel(method, { kind, device }));
      if (!isMergeable(model.adapters.get("default")!)) {
        assertThrows(() => mergeAndUnload(model), UnsupportedError, peftType);
        return;
      }
      const merged = await logitsOf(mergeAndUnload(model));
      const wanted = await logitsOf(model);
      assert(apart(merged, wanted) < 2e-5, `${apart(merged, wanted)} apart`);
    });

    testOnceOnWebGpu(
      `${what}: a delta that is formed does what one does that is not`,
      async (device) => {
        const model = await randomized(await makeModel(method, { kind, device }));
        const thin = withDeltas(model, "applied");
        if (!thin) return;
        const formed = withDeltas(model, "formed")!;
        const difference = apart(await logitsOf(thin), await logitsOf(formed));
        assert(difference < 2e-5, `${difference} apart`);
      },
    );

    testOnCpu(
      `${what}: gradients are those that finite differences give`,
      async (device) => {
        const model = await randomized(await makeModel(method, { kind, device }));
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
      const model = await makeModel(method, { kind, device });
      const start = await lossOf(model);
      const { model: trained } = await train(model, [complete(model, LABELLED)], {
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

    testOnCpu(`${what}: rows of a mixed batch are as alone, or refused`, async (device) => {
      const one = await makeModel(method, { kind, device });
      const two = addAdapter(one, "other", configOf(method, kind), { seed: 8 });
      const model = await randomized(two);
      const adapterNames = ["other", "default"];
      if (method.pass?.virtualTokens) {
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
      const model = await randomized(await makeModel(method, { kind, device }));
      const ids = [...INPUTS.inputIds[0]];
      for (let i = 0; i < 4; i++) {
        const { logits } = await forward(model, complete(model, { inputIds: [ids] }));
        const values = await toFloat32(logits);
        const last = values.subarray(values.length - logits.shape[2]);
        ids.push(last.indexOf(Math.max(...last)));
      }
      const { tokenIds } = await generate(model, INPUTS.inputIds[0], {
        maxNewTokens: 4,
        eosTokenId: [],
        ...partsOf(method, 1),
      });
      assertEquals(tokenIds, ids.slice(INPUTS.inputIds[0].length));
    });
  }

  testOnCpu(
    `${peftType}: is scaled, or says that it has no scale`,
    async (device) => {
      const model = await randomized(await makeModel(method, { kind: "llama", device }));
      if (!isScalable(model.adapters.get("default")!)) {
        await assertRejects(
          () => withAdapterScale(model, 2, logitsOf),
          ValueError,
          peftType,
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

  testOnCpu(`${peftType}: combines, or refuses to`, async (device) => {
    const one = await makeModel(method, { kind: "llama", device });
    const two = addAdapter(one, "other", configOf(method, "llama"), { seed: 8 });
    const model = await randomized(two);
    const add = () =>
      addWeightedAdapter(model, {
        adapters: ["default", "other"],
        weights: [0.75, -0.5],
        adapterName: "both",
        combinationType: "linear",
      });
    if (!method.combine) {
      assertThrows(add, UnsupportedError, peftType);
      return;
    }
    const combined = setAdapter(add(), "both");
    assert((await logitsOf(combined)).every(Number.isFinite));
    assertEquals(getNbTrainableParameters(combined).trainable > 0, true);
  });

  Deno.test(`${peftType}: names that do not exist are refused`, async () => {
    const base = await goldenBase("llama");
    if (targetsOf(method, "llama").length === 0) return;
    const config = configOf(method, "llama", { targetModules: ["w_proj"] });
    const error = assertThrows(() => getPeftModel(base, config), TargetError);
    assert(error.message.includes("Nearest"), error.message);
    assertEquals(planAdapter(base, config).unmatched.length, 1);
    assertThrows(() => configOf(method, "llama", { nonsense: 1 }), ValueError, "nonsense");
    assertEquals(prefixOf(method).endsWith("_"), true);
    assertEquals(name.toUpperCase(), peftType);
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
  const { gradients } = await computeGradients(model, complete(model, LABELLED));
  assertEquals([...gradients.keys()], [...direction.keys()]);
  let sum = 0;
  for (const [leaf, gradient] of gradients) {
    const d = direction.get(leaf)!;
    (await toFloat32(gradient)).forEach((g, i) => sum += g * d[i]);
  }
  return sum;
}
