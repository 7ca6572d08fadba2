import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { forward } from "../../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { mergeAdapter, mergeAndUnload } from "../../../lib/adapters/merge/merge.ts";
import type { MergeCertificate } from "../../../lib/adapters/merge/merge-certificate.ts";
import { leavesAt, mapLeaves, parameterPart, single } from "../../../lib/adapters/parts.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { disableAdapters, setAdapter } from "../../../lib/adapters/select.ts";
import { getDeltaWeight } from "../../../lib/adapters/merge/delta-weight.ts";
import { ValueError } from "../../../lib/errors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { createTorchRandom } from "../../../lib/methods/torch-random.ts";
import { castTensor, float32ToBits, toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { testOnDevices } from "../../devices.ts";
import { goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";

type Small = "f32" | "f16" | "bf16";

/** What a layer's certificate should say, from the base, the delta and what is stored. */
function expected(of: {
  readonly base: Float32Array;
  readonly delta: ArrayLike<number>;
  readonly stored: Float32Array;
  readonly alone: Float32Array;
}): { maxAbs: number; relativeFrobenius: number; fractionRoundedAway: number } {
  const { base, delta, stored, alone } = of;
  const errors = Array.from(base, (w, i) => stored[i] - (w + delta[i]));
  const changed = Array.from(base, (_, i) => i).filter((i) => delta[i] !== 0);
  return {
    maxAbs: Math.max(...errors.map(Math.abs)),
    relativeFrobenius: Math.hypot(...errors) / Math.hypot(...Array.from(delta)),
    fractionRoundedAway: changed.filter((i) => stored[i] === alone[i]).length / changed.length,
  };
}

function close(found: number, wanted: number, what: string): void {
  assert(Math.abs(found - wanted) <= 1e-6 * Math.abs(wanted), `${what}: ${found}, not ${wanted}`);
}

testOnDevices("a certificate measures every layer in the type that is stored", async (device) => {
  for (const kind of ["llama", "llama_bf16"]) {
    const base = await goldenBase(kind, device);
    const config = loraConfig({ r: 3, loraAlpha: 0.04, targetModules: ["q_proj", "up_proj"] });
    const model = await randomized(getPeftModel(base, config));
    for (const dtype of ["f32", "f16", "bf16"] as Small[]) {
      const { model: merged, certificate } = await mergeAndUnload(model, {
        certificate: true,
        dtype,
      });
      assertEquals(certificate.adapters, ["default"]);
      assertEquals(certificate.dtype, dtype);
      assertEquals(
        certificate.layers.map(({ path }) => path),
        [0, 1].flatMap((i) => [
          `model.layers.${i}.self_attn.q_proj`,
          `model.layers.${i}.mlp.up_proj`,
        ]),
      );
      for (const layer of certificate.layers) {
        const name = `${layer.path}.weight`;
        const before = base.parameters.get(name)!;
        const site = base.sites.get(layer.path)!;
        const wanted = expected({
          base: await toFloat32(before),
          delta: await toFloat32(getDeltaWeight(model, site.path)),
          stored: await toFloat32(merged.parameters.get(name)!),
          alone: await toFloat32(castTensor(castTensor(before, "f32"), dtype)),
        });
        assertEquals(layer.parameters, ["weight"]);
        assertEquals([layer.base, layer.dtype], [before.dtype, dtype]);
        assertEquals(layer.elements, site.inFeatures * site.outFeatures);
        assertEquals(layer.changed, layer.elements);
        for (const key of ["maxAbs", "relativeFrobenius", "fractionRoundedAway"] as const) {
          close(layer[key], wanted[key], `${kind} ${dtype} ${layer.path} ${key}`);
        }
        assert(layer.maxAbs > 0, "a sum in f32 is not exact either");
      }
      const all = certificate.layers;
      assertEquals(certificate.maxAbs, Math.max(...all.map((layer) => layer.maxAbs)));
      const size = all.reduce((sum, layer) => sum + layer.elements, 0);
      const lost = all.reduce((sum, l) => sum + l.fractionRoundedAway * l.changed, 0);
      close(certificate.fractionRoundedAway, lost / size, "in all");
      // What 16 bits lose of a small change, and f32 does not.
      const small = dtype === "f32";
      assert(small === certificate.relativeFrobenius < 1e-4, `${certificate.relativeFrobenius}`);
      assert(small === certificate.fractionRoundedAway < 1e-3);
    }
  }
});

testOnDevices("a change that is too small for the type is lost, and counted", async (device) => {
  const base = await goldenBase("llama_bf16", device);
  const config = loraConfig({ r: 2, loraAlpha: 1e-6, targetModules: ["k_proj"] });
  const model = await randomized(getPeftModel(base, config));
  const options = { certificate: true, dtype: "bf16" } as const;
  const { certificate } = await mergeAndUnload(model, options);
  assert(certificate.fractionRoundedAway > 0.99, `${certificate.fractionRoundedAway}`);
  assert(Math.abs(certificate.relativeFrobenius - 1) < 0.05, `${certificate.relativeFrobenius}`);

  const nothing = getPeftModel(base, config);
  const { certificate: zero } = await mergeAndUnload(nothing, { ...options, tolerance: 0 });
  assertEquals([zero.maxAbs, zero.relativeFrobenius, zero.fractionRoundedAway], [0, 0, 0]);
  assertEquals(zero.layers.map(({ changed }) => changed), [0, 0]);
});

testOnDevices(
  "a certificate covers biases, saved modules, rows and what is multiplied",
  async (device) => {
    const base = await goldenBase("gpt2", device);
    const one = getPeftModel(
      base,
      loraConfig({ r: 2, targetModules: ["c_attn"], loraBias: true, modulesToSave: ["ln_f"] }),
    );
    const two = addAdapter(
      one,
      "two",
      loraConfig({
        r: 2,
        useDora: true,
        targetModules: ["c_fc"],
        trainableTokenIndices: { wpe: [3] },
      }),
    );
    const model = setAdapter(await randomized(two), ["default", "two"]);
    const { model: merged, certificate } = await mergeAndUnload(model, {
      certificate: true,
      dtype: "bf16",
    });
    const layer = (path: string) =>
      certificate.layers.find((l) => l.path === `transformer.${path}`)!;
    assertEquals(layer("ln_f").parameters, ["weight", "bias"]);
    assertEquals(layer("h.0.attn.c_attn").parameters, ["weight", "bias"]);
    assertEquals(layer("h.1.mlp.c_fc").parameters, ["weight"]);
    assertEquals(layer("wpe").changed, base.sites.get("transformer.wpe")!.outFeatures);

    // Of a saved module, the whole difference to the base's counts as the change.
    const stored: number[] = [], exact: number[] = [], before: number[] = [];
    for (const name of ["transformer.ln_f.weight", "transformer.ln_f.bias"]) {
      stored.push(...await toFloat32(merged.parameters.get(name)!));
      const adapter = model.adapters.get("default")!;
      exact.push(...await toFloat32(single(adapter, parameterPart(adapter, name)!).tensor));
      before.push(...await toFloat32(base.parameters.get(name)!));
    }
    const error = Math.hypot(...stored.map((x, i) => x - exact[i]));
    const change = Math.hypot(...exact.map((x, i) => x - before[i]));
    close(layer("ln_f").relativeFrobenius, error / change, "ln_f");

    // DoRA's factor is taken apart, so that f32 is seen to be nearly exact.
    const { certificate: whole } = await mergeAndUnload(model, { certificate: true });
    assert(whole.relativeFrobenius > 1e-9 && whole.relativeFrobenius < 1e-6);
    for (const { maxAbs } of whole.layers) assert(maxAbs < 1e-6);
  },
);

testOnDevices("a certificate says what a block-quantized base became", async (device) => {
  const plain = await goldenBase("llama", device);
  const name = "model.layers.1.mlp.down_proj.weight";
  const { shape } = plain.parameters.get(name)!;
  const random = createTorchRandom(2);
  const blocks = new Uint8Array(shape[0] * shape[1] / 32 * 34);
  for (let at = 0; at < blocks.length; at += 34) {
    const [scale] = float32ToBits(Float32Array.of(0.002 * (1 + at % 5)), "f16");
    blocks.set([scale & 255, scale >> 8], at);
    blocks.set(random.normal(32, { std: 40 }).map((x) => Math.round(x) & 255), at + 2);
  }
  const quantized = tensor(blocks, { dtype: "q8_0", shape });
  const base = { ...plain, parameters: new Map(plain.parameters).set(name, quantized) };
  const config = loraConfig({ r: 2, targetModules: ["down_proj"] });
  const model = await randomized(getPeftModel(base, config));
  const { certificate } = await mergeAndUnload(model, { certificate: true, tolerance: 1e-5 });
  assertEquals(
    certificate.layers.map((layer) => [layer.base, layer.dtype]),
    [["f32", "f32"], ["q8_0", "f32"]],
  );
  assert(certificate.layers[1].relativeFrobenius > 0);
});

testOnDevices("a merge beyond the tolerance is refused, with its worst layers", async (device) => {
  const base = await goldenBase("llama", device);
  const config = loraConfig({ r: 2, loraAlpha: 0.02, targetModules: ["v_proj"] });
  const model = await randomized(getPeftModel(base, config));
  const { certificate } = await mergeAndUnload(model, { certificate: true, dtype: "bf16" });
  const worst = [...certificate.layers].sort((a, b) => b.relativeFrobenius - a.relativeFrobenius);
  const between = (worst[0].relativeFrobenius + worst[1].relativeFrobenius) / 2;
  const merge = (tolerance: number | Record<string, number>, dtype: Small = "bf16") =>
    mergeAndUnload(model, { certificate: true, tolerance, dtype });

  const error = await assertRejects(() => merge(between), ValueError);
  assertEquals(error.code, "MERGE_TOLERANCE");
  assertEquals(error.details.layers, [worst[0].path]);
  assertEquals((error.details.certificate as MergeCertificate).layers, certificate.layers);
  assert(error.message.includes(`1 of 2 layers: ${worst[0].path}`), error.message);
  assert(error.message.includes('dtype "f32"'), error.message);
  for (const key of ["maxAbs", "relativeFrobenius", "fractionRoundedAway"] as const) {
    const most = Math.max(...certificate.layers.map((layer) => layer[key]));
    await merge({ [key]: most });
    const refused = await assertRejects(() => merge({ [key]: most * 0.999 }), ValueError);
    assert(refused.message.includes(key), refused.message);
  }
  await merge(1e-4, "f32");
  const exact = await assertRejects(() => merge({ maxAbs: 0 }, "f32"), ValueError);
  assert(exact.message.includes("as exact as"), exact.message);

  const both = await assertRejects(
    () => mergeAdapter(model, { certificate: true, tolerance: between, dtype: "bf16" }),
    ValueError,
  );
  assertEquals(both.code, "MERGE_TOLERANCE");
});

testOnDevices("mergeAdapter certifies all that is merged", async (device) => {
  const base = await goldenBase("llama", device);
  const one = getPeftModel(base, loraConfig({ r: 2, targetModules: ["q_proj"] }));
  const two = addAdapter(one, "two", loraConfig({ r: 2, targetModules: ["v_proj"] }));
  const model = await randomized(two);
  const first = mergeAdapter(model);
  const { model: merged, certificate } = await mergeAdapter(first, {
    certificate: true,
    adapterNames: ["two"],
  });
  assertEquals(certificate.adapters, ["default", "two"]);
  assertEquals(merged.merged?.names, ["default", "two"]);
  assertEquals(certificate.layers.length, 4);
  const { certificate: again } = await mergeAdapter(merged, { certificate: true });
  assertEquals(again, certificate);
  const inputs = { inputIds: [[5, 41, 3, 60]] };
  const together = setAdapter(model, ["default", "two"]);
  const [x, y] = await Promise.all(
    [merged, together].map(async (m) => await toFloat32((await forward(m, inputs)).logits)),
  );
  x.forEach((v, i) => assert(Math.abs(v - y[i]) < 1e-4));
});

/** The model with one number of an adapter replaced. */
async function withBroken(model: PeftModel, value: number): Promise<PeftModel> {
  const adapter = model.adapters.get("default")!;
  const path = "model.layers.1.self_attn.q_proj";
  const leaves = leavesAt(adapter, path)!;
  const data = (await toFloat32(leaves.lora_B)).slice();
  data[0] = value;
  const broken: Tensor = tensor(data, { shape: leaves.lora_B.shape });
  const parts = mapLeaves(adapter.parts, (old) => old === leaves.lora_B ? broken : old);
  return { ...model, adapters: new Map([["default", { ...adapter, parts }]]) };
}

testOnDevices("weights that are not finite are refused", async (device) => {
  const base = await goldenBase("llama", device);
  const config = loraConfig({ r: 2, targetModules: ["q_proj"] });
  const model = await randomized(getPeftModel(base, config));
  const path = "model.layers.1.self_attn.q_proj";

  const nan = await withBroken(model, NaN);
  const broken = await assertRejects(() => mergeAndUnload(nan, { certificate: true }), ValueError);
  assertEquals(broken.code, "MERGE_NOT_FINITE");
  assertEquals(broken.details.layers, [path]);
  assert(broken.message.includes("it is broken"), broken.message);

  const large = await withBroken(model, 1e7);
  await mergeAndUnload(large, { certificate: true, dtype: "bf16" });
  const overflow = await assertRejects(
    () => mergeAndUnload(large, { certificate: true, dtype: "f16" }),
    ValueError,
  );
  assert(overflow.message.includes("stored as f16"), overflow.message);
});

testOnDevices("what cannot be certified says so", async (device) => {
  const base = await goldenBase("llama", device);
  const model = getPeftModel(base, loraConfig());
  // In the form with a certificate, all errors come through the promise.
  await assertRejects(
    () => mergeAndUnload(disableAdapters(model), { certificate: true }),
    ValueError,
  );
  await assertRejects(
    () => mergeAndUnload(model, { certificate: true, tolerance: -1 }),
    ValueError,
    "relativeFrobenius",
  );
  await assertRejects(
    () => mergeAndUnload(model, { certificate: true, tolerance: { relativeFrobenus: 1 } as never }),
    ValueError,
    "nearest: relativeFrobenius",
  );
  assertThrows(
    () => mergeAndUnload(model, { tolerance: 1 } as never),
    ValueError,
    "certificate: true",
  );
});
