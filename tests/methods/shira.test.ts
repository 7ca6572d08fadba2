import { assert, assertEquals, assertRejects } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { CheckpointError, ConfigError } from "../../lib/errors.ts";
import { type ShiraConfig, shiraConfig } from "../../lib/methods/shira.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { castTensor, toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { inFolder } from "../io/folder.ts";

const KEY = "base_model.model.model.layers.0.self_attn.q_proj.shira_indices";
const base = await goldenBase("llama");

/** The first elements of each layer's weight. */
const first: Partial<ShiraConfig> = {
  r: 1,
  targetModules: ["q_proj"],
  maskType: "first",
  maskFn: ({ r, inFeatures, outFeatures, weight }) =>
    weight.map((_, i) => +(i < r * (inFeatures + outFeatures))),
};

function parts(indices: Tensor) {
  const config = shiraConfig({ r: 1, targetModules: ["q_proj"], maskType: "first" });
  const tensors = new Map(getAdapterStateDict(getPeftModel(base, shiraConfig(first))));
  return { config: JSON.parse(toPeftJson(config)), tensors: tensors.set(KEY, indices) };
}

Deno.test("a mask of one's own chooses, and its places are in the file", async () => {
  const model = await randomized(getPeftModel(base, shiraConfig(first)));
  const indices = getAdapterStateDict(model).get(KEY)!;
  assertEquals([indices.dtype, indices.shape], ["i32", [2, 64]]);
  const places = Int32Array.from({ length: 128 }, (_, i) => i < 64 ? i >> 5 : i & 31);
  assertEquals(await indices.data(), places);
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    for (const isTrainable of [false, true]) {
      const again = await loadAdapter(base, folder, { isTrainable });
      const { config } = again.adapters.get("default")!;
      assertEquals((config as ShiraConfig).maskFn, null);
      assertEquals(fromPeftJson(JSON.parse(toPeftJson(config))), {
        ...config,
        inferenceMode: true,
      });
      const leaves = [again, model].map((m) => [...getAdapterStateDict(m).values()]);
      for (const [n, leaf] of leaves[0].entries()) {
        assertEquals(await leaf.data(), await leaves[1][n].data());
      }
    }
  });
});

Deno.test("places are read from f32, as Windows writes them, and refused where there are none", async () => {
  const good = getAdapterStateDict(getPeftModel(base, shiraConfig(first))).get(KEY)!;
  const loaded = await loadAdapter(base, parts(castTensor(good, "f32")));
  assertEquals(await getAdapterStateDict(loaded).get(KEY)!.data(), await good.data());
  const wrong = async (at: number, value: number) => {
    const places = (await toFloat32(good)).slice();
    places[at] = value;
    return tensor(places, { shape: [2, 64] });
  };
  for (const [at, value] of [[0, 32], [64, -1], [127, 32]]) {
    const adapter = parts(await wrong(at, value));
    await assertRejects(() => loadAdapter(base, adapter), CheckpointError, `element ${at}`);
  }
  await assertRejects(() => loadAdapter(base, parts(castTensor(good, "bf16"))), CheckpointError);
});

Deno.test("a mask that does not fit, or is not there, is refused", async () => {
  const none = { ...first, maskFn: null };
  const few = { ...first, maskFn: () => new Uint8Array(1024).fill(1, 0, 63) };
  const short = { ...first, maskFn: () => [1, 0] };
  for (const [config, text] of [[none, "maskFn"], [few, "63"], [short, "1024"]] as const) {
    const indices = getAdapterStateDict(getPeftModel(base, shiraConfig(config))).get(KEY)!;
    const error = await assertRejects(async () => await indices.data(), ConfigError);
    assert(error.message.includes(text), error.message);
  }
});
