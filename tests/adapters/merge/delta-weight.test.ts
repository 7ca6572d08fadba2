import { assert, assertEquals, assertThrows } from "@std/assert";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { leavesAt } from "../../../lib/adapters/parts.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { setRequiresGrad } from "../../../lib/adapters/select.ts";
import { getDeltaWeight } from "../../../lib/adapters/merge/delta-weight.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../../lib/adapters/checkpoint/state-dict.ts";
import { UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { type LoraConfig, loraConfig, loraShape } from "../../../lib/methods/lora/lora-config.ts";
import type { SiteCall } from "../../../lib/methods/site-rule.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";
import { testOnDevices } from "../../devices.ts";
import { goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";

/** s·(B·A − B₀·A₀) of a LoRA at a site in f64, as the layer stores its weight. */
async function byHand(model: PeftModel, path: string): Promise<Float64Array> {
  const adapter = model.adapters.get("default")!;
  const site = model.base.sites.get(path)!;
  const leaves = leavesAt(adapter, path)!;
  const { scale } = loraShape(adapter.config as LoraConfig, site);
  const out = new Float64Array(site.inFeatures * site.outFeatures);
  const addProduct = async (sign: number, names: readonly [string, string]) => {
    const [a, b] = [await toFloat32(leaves[names[0]]), await toFloat32(leaves[names[1]])];
    const r = leaves[names[0]].shape[0];
    for (let o = 0; o < site.outFeatures; o++) {
      for (let i = 0; i < site.inFeatures; i++) {
        const at = site.kind === "linear" ? o * site.inFeatures + i : i * site.outFeatures + o;
        for (let k = 0; k < r; k++) {
          out[at] += sign * scale * b[o * r + k] * a[k * site.inFeatures + i];
        }
      }
    }
  };
  if (leaves.lora_embedding_A) await addProduct(1, ["lora_embedding_A", "lora_embedding_B"]);
  else await addProduct(1, ["lora_A", "lora_B"]);
  if (leaves.lora_A_init) await addProduct(-1, ["lora_A_init", "lora_B_init"]);
  return out;
}

function farthest(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i])));
}

testOnDevices("a delta is that of the factors, however small beside the weight", async (device) => {
  const gpt2 = await goldenBase("gpt2", device);
  const config = loraConfig({
    r: 3,
    loraAlpha: 5e-7,
    targetModules: ["c_attn", "c_fc", "wte"],
    trainableTokenIndices: { wpe: [1, 4] },
  });
  const model = await randomized(getPeftModel(gpt2, config));
  for (
    const path of ["transformer.h.1.attn.c_attn", "transformer.h.0.mlp.c_fc", "transformer.wte"]
  ) {
    const site = gpt2.sites.get(path)!;
    const delta = getDeltaWeight(model, site.path);
    assertEquals(delta.shape, [site.inFeatures, site.outFeatures]);
    assertEquals(delta.dtype, "f32");
    const expected = await byHand(model, path);
    const largest = Math.max(...expected.map(Math.abs));
    assert(largest > 1e-9 && largest < 1e-6, `${largest}`);
    assert(farthest(await toFloat32(delta), expected) < 1e-6 * largest, path);
  }
});

testOnDevices("a delta has the scale, the factor and what the base lacks", async (device) => {
  const base = await goldenBase("llama", device);
  const path = "model.layers.1.self_attn.v_proj";
  const config = loraConfig({
    r: 4,
    loraAlpha: 10,
    useRslora: true,
    initLoraWeights: "pissa",
    alphaPattern: { v_proj: 3 },
    targetModules: ["v_proj"],
  });
  const model = await randomized(getPeftModel(base, config));
  const site = base.sites.get(path)!;
  const expected = await byHand(model, path);
  const delta = await toFloat32(getDeltaWeight(model, site.path));
  assert(farthest(delta, expected) < 1e-5 * Math.max(...expected.map(Math.abs)));
  const multipliers = new Map([["default", -0.25]]);
  const scaled = await toFloat32(getDeltaWeight({ ...model, multipliers }, site.path));
  assert(farthest(scaled, expected.map((x) => -0.25 * x)) < 1e-6);
});

testOnDevices("the delta of DoRA is that of the whole weight", async (device) => {
  const base = await goldenBase("llama", device);
  const path = "model.layers.0.mlp.up_proj";
  const config = loraConfig({ r: 2, useDora: true, targetModules: ["up_proj"] });
  const model = await randomized(getPeftModel(base, config));
  const site = base.sites.get(path)!;
  const adapter = model.adapters.get("default")!;
  const weight = await toFloat32(base.parameters.get(`${path}.weight`)!);
  const added = await byHand(model, path);
  const magnitudes = await toFloat32(leavesAt(adapter, path)!.lora_magnitude_vector);
  const { inFeatures: n } = site;
  const expected = new Float64Array(weight.length);
  magnitudes.forEach((m, o) => {
    const row = Array.from({ length: n }, (_, i) => weight[o * n + i] + added[o * n + i]);
    const factor = m / Math.hypot(...row);
    row.forEach((x, i) => expected[o * n + i] = x * factor - weight[o * n + i]);
  });
  const found = await toFloat32(getDeltaWeight(model, site.path));
  assert(farthest(found, expected) < 1e-5 * Math.max(...expected.map(Math.abs)));
});

testOnDevices(
  "the delta is to the weight that the adapter's file brought along",
  async (device) => {
    const base = await goldenBase("llama", device);
    const path = "model.embed_tokens", key = `base_model.model.${path}.base_layer.weight`;
    const config = loraConfig({ r: 2, useDora: true, targetModules: ["embed_tokens"] });
    const own = await randomized(getPeftModel(base, config));
    const weight = (await toFloat32(base.parameters.get(`${path}.weight`)!)).map((x) => x + 0.5);
    const tensors = new Map(getAdapterStateDict(own));
    tensors.set(key, tensor(weight, { shape: tensors.get(key)!.shape }));
    const { model } = await setAdapterStateDict(own, tensors);
    const { inFeatures: n, outFeatures } = base.sites.get(path)!;
    const added = await byHand(model, path);
    const adapter = model.adapters.get("default")!;
    const magnitudes = await toFloat32(leavesAt(adapter, path)!.lora_magnitude_vector);
    const expected = new Float64Array(weight.length);
    magnitudes.forEach((m, o) => {
      const at = Array.from({ length: n }, (_, i) => i * outFeatures + o);
      const factor = m / Math.hypot(...at.map((i) => weight[i] + added[i]));
      for (const i of at) expected[i] = (weight[i] + added[i]) * factor - weight[i];
    });
    const found = await toFloat32(getDeltaWeight(model, path));
    assert(farthest(found, expected) < 1e-5 * Math.max(...expected.map(Math.abs)));
  },
);

testOnDevices("a delta that does not exist is refused", async (device) => {
  const base = await goldenBase("llama", device);
  const model = setRequiresGrad(getPeftModel(base, loraConfig()), "default");
  const adapter = model.adapters.get("default")!;
  const error = assertThrows(() => getDeltaWeight(model, "lm_head"), ValueError, "lm_head");
  assertEquals(error.code, "SITE_UNKNOWN");
  const unmergeable = { forward: (_: unknown, { result }: SiteCall) => result };
  const stuck = {
    ...adapter,
    method: { ...adapter.method, sites: () => ({ linear: unmergeable }) },
  };
  const fixed = { ...model, adapters: new Map([["default", stuck]]) };
  const path = "model.layers.0.self_attn.q_proj";
  assertThrows(() => getDeltaWeight(fixed, path), UnsupportedError, "cannot be merged");
});
