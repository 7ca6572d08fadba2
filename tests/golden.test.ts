/**
 * Walks the golden cases of all methods that adapt modules on each device: what the real PEFT computed, trained and merged.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { forward } from "../lib/adapters/forward.ts";
import { getPeftModel } from "../lib/adapters/inject.ts";
import { loadAdapter } from "../lib/adapters/checkpoint/load.ts";
import { mergeAndUnload } from "../lib/adapters/merge/merge.ts";
import type { AnyModel, PeftModel } from "../lib/adapters/peft-model.ts";
import { layeredBase } from "../lib/adapters/layered-base.ts";
import { adapterOf, disableAdapters, setAdapter } from "../lib/adapters/select.ts";
import { getAdapterStateDict, setAdapterStateDict } from "../lib/adapters/checkpoint/state-dict.ts";
import type { Device } from "../lib/device/device.ts";
import { GraftError, UnsupportedError } from "../lib/errors.ts";
import { openSafetensors } from "../lib/io/safetensors.ts";
import { methodOf } from "../lib/methods/mod.ts";
import { toFloat32 } from "../lib/tensor/convert.ts";
import { train } from "../lib/training/train.ts";
import { goldenBase } from "./adapters/bases.ts";
import { testOnceOnWebGpu } from "./devices.ts";
import {
  assertLogits,
  batchOf,
  calibrationOf,
  type Expected,
  expectedGradients,
  expectedOf,
  fileKey,
  type GoldenCase,
  goldenCases,
  mergedName,
  peftConfig,
} from "./golden-case.ts";
import { adamLosses, apart, differentiate } from "./steps.ts";

/** Bounds: of losses relative, of gradients as a share of the largest of all. */
const LOSSES = 1e-5, GRADIENTS = 2e-5;

async function load(
  { folder, kind, peftType }: GoldenCase,
  expected: Expected,
  device: Device,
): Promise<PeftModel> {
  const { record } = expected, { seed, config } = record;
  const base = await goldenBase(kind, device);
  const calibration = await calibrationOf(base, expected);
  if (record.resume_error) {
    await assertRejects(() => loadAdapter(base, folder, { isTrainable: true }), UnsupportedError);
    return await loadAdapter(base, folder);
  }
  if (!record.reload_error) {
    return await loadAdapter(base, folder, { isTrainable: true, seed, calibration });
  }
  // PEFT cannot read what it wrote here, as its config is not what it was asked for; neither can anyone.
  await assertRejects(() => loadAdapter(base, folder), GraftError);
  const asked = getPeftModel(base, peftConfig(peftType, config!));
  const { tensors } = await openSafetensors(`${folder}adapter_model.safetensors`);
  return (await setAdapterStateDict(asked, tensors)).model;
}

for (const golden of goldenCases) {
  if (golden.adapters.length) continue;
  testOnceOnWebGpu(`golden ${golden.peftType} ${golden.name}`, async (device) => {
    const expected = await expectedOf(golden);
    const { record } = expected;
    const model = await load(golden, expected, device);
    await assertLogits(model, expected, {
      right: "adapted.logits",
      left: "left.adapted.logits",
      what: "adapted",
    });

    if (record.merged === false) {
      assertThrows(() => mergeAndUnload(model), UnsupportedError);
    } else {
      const right = mergedName(expected, "adapted.logits");
      const left = "left.adapted.logits";
      await assertLogits(mergeAndUnload(model), expected, { right, left, what: "merged" });
    }
    // The base of the model is still what it was.
    const base = await goldenBase(golden.kind, device), { config } = adapterOf(model, "default");
    const plain = await forward(layeredBase(base, { method: methodOf(config.peftType), config }), {
      inputIds: expected.get("in.input_ids"),
    });
    const off = await forward(disableAdapters(model), { inputIds: expected.get("in.input_ids") });
    assertEquals(await off.logits.data(), await plain.logits.data());

    // Gradients and losses are those of what a converted adapter, or what it was encoded from, was.
    if (record.converted || record.resume_error) return;
    const batch = batchOf(expected, record.mode && 0);
    const { grads } = await differentiate(model, batch);
    const wanted = await expectedGradients(model, expected);
    assertEquals([...grads.keys()].sort(), [...wanted.keys()].sort());
    const largest = Math.max(...[...wanted.values()].map((g) => Math.max(...g.map(Math.abs))));
    for (const [leaf, want] of wanted) {
      const far = apart(grads.get(leaf)!, want, largest);
      assert(far < GRADIENTS, `gradient of ${leaf}: ${far} of the largest`);
    }

    const losses = record.losses_as_one_parameter ?? record.losses!;
    const got = record.mode
      ? await trainedLosses(model, expected)
      : await adamLosses(model, losses.map(() => batch), record.optimizer!);
    losses.forEach((loss, i) => {
      const far = Math.abs(got[i] - loss) / loss;
      assert(far < LOSSES, `loss ${i}: ${got[i]} instead of ${loss} (${far})`);
    });
  });
}

/** Losses of a whole training in training mode, and what it leaves of state. */
async function trainedLosses(model: PeftModel, expected: Expected): Promise<readonly number[]> {
  const { losses, optimizer } = expected.record;
  const { history, model: trained } = await train(
    model,
    losses!.map((_, step) => batchOf(expected, step)),
    {
      learningRate: optimizer!.lr,
      weightDecay: optimizer!.weight_decay,
      steps: losses!.length,
      dropout: false,
    },
  );
  const after = getAdapterStateDict(trained);
  for (const name of expected.names()) {
    if (!name.startsWith("after.")) continue;
    const key = fileKey(name.slice("after.".length));
    const [got, want] = [await toFloat32(after.get(key)!), await toFloat32(expected.get(name))];
    assert(apart(got, want) < GRADIENTS, `${key} after training: ${apart(got, want)}`);
  }
  return history.map(({ loss }) => loss);
}

for (const golden of goldenCases) {
  const { adapters, folder } = golden;
  if (adapters.length === 0) continue;
  testOnceOnWebGpu(`golden ${golden.peftType} ${golden.name}`, async (device) => {
    const expected = await expectedOf(golden);
    let model: AnyModel = await goldenBase(golden.kind, device);
    for (const adapterName of adapters) {
      model = await loadAdapter(model, folder, { adapterName, subfolder: adapterName });
    }
    const all = model as PeftModel;
    assertEquals(all.active, [adapters[0]]);
    for (const adapterName of adapters) {
      await assertLogits(setAdapter(all, adapterName), expected, {
        right: `adapted.${adapterName}.logits`,
        left: `left.adapted.${adapterName}.logits`,
        what: adapterName,
      });
    }
    const both = setAdapter(all, adapters);
    await assertLogits(both, expected, { right: "adapted.both.logits", what: "both" });
    if (expected.record.merged === false) {
      assertThrows(() => mergeAndUnload(both), UnsupportedError);
    } else {
      const right = mergedName(expected, "adapted.both.logits");
      await assertLogits(mergeAndUnload(both), expected, { right, what: "both merged" });
    }
  });
}
