import { assert, assertEquals, assertRejects } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import {
  withActiveAdapters,
  withAdapterScale,
  withAdaptersDisabled,
  withoutInputDtypeCasting,
} from "../../lib/adapters/scope.ts";
import { disableAdapters } from "../../lib/adapters/select.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import type { Device } from "../../lib/device/device.ts";
import { ArgumentTypeError, ValueError } from "../../lib/errors.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import type { SiteCall } from "../../lib/methods/site-rule.ts";
import { castTensor, toFloat32 } from "../../lib/tensor/convert.ts";
import { testOnDevices } from "../devices.ts";
import { goldenBase } from "./bases.ts";

const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };

async function twoAdapters(device?: Device): Promise<PeftModel> {
  const base = await goldenBase("llama", device);
  const config = loraConfig({ r: 2, loraAlpha: 5, initLoraWeights: false });
  const one = getPeftModel(base, config, { adapterName: "one" });
  return addAdapter(one, "two", loraConfig({ r: 3, initLoraWeights: false }), { seed: 4 });
}

async function logits(model: PeftModel): Promise<Float32Array> {
  return (await toFloat32((await forward(model, INPUTS)).logits)).slice();
}

Deno.test("withAdapterScale scales for one call", async () => {
  const model = await twoAdapters();
  const seen = (m: PeftModel) => [...m.multipliers];
  const { value, model: restored } = await withAdapterScale(model, 0.5, seen);
  assertEquals(value, [["one", 0.5]]);
  assert(restored === model);
  assertEquals(model.multipliers.size, 0);
  const nested = await withAdapterScale(
    model,
    { one: 3, two: -2 },
    (outer) => withAdapterScale(outer, { one: 0.5 }, (inner) => Promise.resolve(seen(inner))),
  );
  assertEquals(nested.value.value, [["one", 1.5], ["two", -2]]);
  for (const factor of [NaN, Infinity, -Infinity]) {
    await assertRejects(() => withAdapterScale(model, factor, seen), ValueError);
  }
  await assertRejects(() => withAdapterScale(model, { three: 1 }, seen), ValueError);
  for (const factor of ["2", null, true, undefined, 2n, { one: "2" }]) {
    const error = await assertRejects(
      () => withAdapterScale(model, factor as never, seen),
      ArgumentTypeError,
    );
    assert(error instanceof TypeError);
  }
  await assertRejects(() => withAdapterScale(model, 2, undefined as never), TypeError);
});

Deno.test("only what has a scale can be scaled", async () => {
  const model = await twoAdapters();
  const adapter = model.adapters.get("one")!;
  const unscaled = { forward: (_: unknown, { result }: SiteCall) => result };
  const method = { ...adapter.method, sites: () => ({ linear: unscaled }) };
  const fixed = { ...model, adapters: new Map([["one", { ...adapter, method }]]) };
  const error = await assertRejects(() => withAdapterScale(fixed, 2, () => 1), ValueError);
  assertEquals(error.code, "NOTHING_TO_SCALE");
  await assertRejects(() => withAdapterScale(fixed, { one: 2 }, () => 1), ValueError, "LORA");
});

testOnDevices(
  "scopes give back what they got, nested, at one time and after a throw",
  async (device) => {
    const model = await twoAdapters(device);
    const before = await logits(model);
    const plain = await logits(disableAdapters(model));
    const [off, two, zero, same] = await Promise.all([
      withAdaptersDisabled(model, logits),
      withActiveAdapters(model, "two", async (m) => {
        await withAdaptersDisabled(m, logits);
        return await logits(m);
      }),
      withAdapterScale(model, 0, logits),
      withAdapterScale(model, 1, logits),
    ]);
    assertEquals(off.value, plain);
    assertEquals(zero.value, plain);
    assertEquals(same.value, before);
    assert(two.value.some((x, i) => Math.abs(x - before[i]) > 1e-3));
    for (const scope of [off, two, zero, same]) assert(scope.model === model);

    for (
      const run of [
        (fn: () => never) => withAdapterScale(model, 3, fn),
        (fn: () => never) => withAdaptersDisabled(model, fn),
        (fn: () => never) => withActiveAdapters(model, ["two", "one"], fn),
        (fn: () => never) => withoutInputDtypeCasting(model, fn),
      ]
    ) {
      await assertRejects(
        () =>
          run(() => {
            throw new RangeError("inside");
          }),
        RangeError,
        "inside",
      );
    }
    assertEquals(await logits(model), before);
  },
);

Deno.test("a scope changes nothing of what is trainable", async () => {
  const model = await twoAdapters();
  const { value } = await withActiveAdapters(disableAdapters(model), ["two", "one"], (m) => m);
  assertEquals([value.active, value.enabled, value.trainable], [["two", "one"], true, ["one"]]);
  assert([...trainableLeaves(value).keys()].every((name) => name.startsWith("a1.")));
  await assertRejects(() => withActiveAdapters(model, "tow", () => 1), ValueError, "nearest: two");
});

testOnDevices(
  "inputs are rounded to the type of 16-bit leaves, unless told otherwise",
  async (device) => {
    const base = await goldenBase("llama", device);
    const config = loraConfig({ r: 2, loraAlpha: 20, initLoraWeights: false });
    const full = getPeftModel(base, config);
    for (const dtype of ["bf16", "f16"] as const) {
      const halves = new Map(
        [...getAdapterStateDict(full)].map(([key, leaf]) => [key, castTensor(leaf, dtype)]),
      );
      const { model: kept, report } = await setAdapterStateDict(full, halves, {
        autocastAdapterDtype: false,
      });
      assertEquals(report.dtypeCast, []);
      assertEquals(
        [...getAdapterStateDict(kept).values()].map((t) => t.dtype),
        [
          ...halves.values(),
        ].map(() => dtype),
      );
      const { model: widened, report: cast } = await setAdapterStateDict(full, halves);
      assertEquals(cast.dtypeCast.length, halves.size);
      const rounding = await logits(kept);
      const exact = await logits(widened);
      const { value } = await withoutInputDtypeCasting(kept, logits);
      const apart = (a: Float32Array) => Math.max(...a.map((x, i) => Math.abs(x - exact[i])));
      assert(apart(value) < 1e-5, `${dtype}: ${apart(value)} without rounding`);
      assert(apart(rounding) > 1e-4 && apart(rounding) < 0.3, `${dtype}: ${apart(rounding)}`);
    }
  },
);
