import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { adapterOf } from "../../lib/adapters/select.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { mergeAdapter, mergeAndUnload, unload } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { convertToLora } from "../../lib/adapters/lora/convert-to-lora.ts";
import { preprocessCorda } from "../../lib/adapters/lora/preprocess-corda.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import { generate } from "../../lib/generation/generate.ts";
import { createModel, loadModel } from "../../lib/io/load-model.ts";
import { replicateLayers } from "../../lib/io/replicate-layers.ts";
import { resizeTokenEmbeddings } from "../../lib/io/resize-token-embeddings.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { train } from "../../lib/training/train.ts";
import { testOnDevices } from "../devices.ts";
import { greedyChoices, LLAMA } from "../generation/models.ts";
import { inFolder } from "../io/folder.ts";
import { apart } from "../steps.ts";
import { randomized } from "./randomized.ts";

const RANGES = [[0, 2], [0, 2], [1, 2]] as const;
const CONFIG = loraConfig({
  r: 2,
  loraAlpha: 6,
  targetModules: ["q_proj", "v_proj", "down_proj"],
  layerReplication: RANGES,
});
const IDS = [[5, 200, 31, 7, 64, 99]];

async function logits(model: AnyModel): Promise<Float32Array> {
  return (await forward(model, { inputIds: IDS })).logits.data() as Promise<Float32Array>;
}

async function assertSame(a: AnyModel, b: AnyModel): Promise<void> {
  const far = apart(await logits(a), await logits(b));
  assert(far < 2e-5, `${far} of the largest logit`);
}

testOnDevices(
  "repeated layers: merged weights are apart, and give what the adapter gives",
  async (device) => {
    const base = await createModel({ ...LLAMA, tie_word_embeddings: true }, { device });
    const before = await logits(base);
    const model = await randomized(getPeftModel(base, CONFIG));
    assertEquals(model.base.parameters.size, base.parameters.size); // of which copies are none
    assert(apart(await logits(model), before) > 0.1);

    // PEFT merges all adapters of a weight into its one storage.
    const merged = mergeAndUnload(model);
    await assertSame(merged, model);
    assertEquals(merged.config.tie_word_embeddings, true);
    await assertSame(mergeAdapter(model), model);
    await inFolder(async (folder) => {
      await saveModel(merged, folder);
      const again = await loadModel(folder, { device });
      assertEquals([again.config.num_hidden_layers, again.layerOrder], [5, undefined]);
      await assertSame(again, model);
      await assertSame(resizeTokenEmbeddings(unload(model), 259), unload(model));
    });
    assertEquals(await logits(base), before);
    assertEquals(base.config.num_hidden_layers, 2);
  },
);

Deno.test("repeated layers: what adapters begin with is measured at each", async () => {
  const base = await createModel(LLAMA, { device: "cpu" });
  using _device = base.device;
  const config = loraConfig({ ...CONFIG, initLoraWeights: "corda", targetModules: ["v_proj"] });
  const calibration = await preprocessCorda(base, config, { batches: [{ inputIds: IDS }] });
  assertEquals(calibration.sites.size, 5);
  await assertSame(getPeftModel(base, config, { calibration }), replicateLayers(base, RANGES));
});

testOnDevices("repeated layers: each has its place in the cache", async (device) => {
  const base = await createModel(LLAMA, { device });
  const model = await randomized(getPeftModel(base, CONFIG));
  const [{ tokenIds }] = await generate(model, IDS, { maxNewTokens: 6 });
  const [choices] = await greedyChoices(model, [{ promptIds: IDS[0], tokenIds }]);
  assertEquals([...tokenIds], choices);
});

Deno.test("repeated layers: an adapter brings them along, and others can join it", async () => {
  const base = await createModel(LLAMA, { device: "cpu" });
  using _device = base.device;
  const plan = planAdapter(base, CONFIG);
  assertEquals([...plan.layers], [0, 1, 2, 3, 4].map((layer) => [layer, 3]));
  const { model } = await train(getPeftModel(base, CONFIG), [{ inputIds: IDS }], {
    learningRate: 0.01,
    steps: 2,
  });
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    const again = await loadAdapter(base, folder);
    await assertSame(again, model);
    await assertSame(await loadAdapter(again, folder, { adapterName: "twin" }), model);
    const joined = addAdapter(again, "all", loraConfig({ targetModules: ["o_proj"] }));
    assertEquals([...planAdapter(joined, adapterOf(joined, "all").config).layers.keys()].length, 5);
    const lora = await convertToLora(again, { rank: 2 });
    assertEquals(lora.config.layerReplication, RANGES);
    await assertSame(await loadAdapter(base, lora), model);
    const other = getPeftModel(base, loraConfig());
    await assertRejects(
      () => loadAdapter(other, folder, { adapterName: "late" }),
      ValueError,
      "adapters on all of its layers",
    );
    const config = loraConfig({ layerReplication: [[0, 1]] });
    assertThrows(() => addAdapter(again, "less", config), ValueError, "0, 1, 0, 1, 1 already");
  });
});

Deno.test("repeated layers stay what their numbers make them", async () => {
  const smol = {
    ...LLAMA,
    model_type: "smollm3",
    rope_theta: 5,
    no_rope_layers: [1, 0],
    num_hidden_layers: 2,
  };
  const base = await createModel(smol, { device: "cpu" });
  using _device = base.device;
  await inFolder(async (folder) => {
    await saveModel(replicateLayers(base, [[1, 2], [0, 2]]), folder);
    const again = await loadModel(folder, { device: base.device });
    assertEquals(again.config.no_rope_layers, [0, 1, 0]);
    await assertSame(again, replicateLayers(base, [[1, 2], [0, 2]]));

    const { no_rope_layers: _, ...rest } = smol;
    const byNumber = await createModel({ ...rest, no_rope_layer_interval: 2 }, {
      device: base.device,
    });
    await assertSame(replicateLayers(byNumber, [[0, 2]]), byNumber);
    const moved = replicateLayers(byNumber, [[1, 2], [0, 2]]);
    await assertRejects(() => saveModel(moved, folder), UnsupportedError, "layerReplication");
  });
});

Deno.test("ranges that no model has are refused", async () => {
  const base = await createModel(LLAMA, { device: "cpu" });
  using _device = base.device;
  for (const range of [[0, 3], [1, 1], [-1, 2], [0.5, 2]] as const) {
    assertThrows(() => replicateLayers(base, [range]), ValueError, "0 to 1");
  }
  assertThrows(() => replicateLayers(base, []), ValueError, "no ranges");
  for (const ranges of [[[0, 1e9]], new Array(1e5).fill([0, 2])]) {
    const config = loraConfig({ layerReplication: ranges });
    assertThrows(() => getPeftModel(base, config), ValueError, "10000 are the most");
    assertThrows(() => getPeftModel(replicateLayers(base, RANGES), config), ValueError, "already");
  }
  const both = await createModel({
    model_type: "t5",
    vocab_size: 32,
    d_model: 8,
    d_kv: 4,
    d_ff: 16,
    num_layers: 1,
    num_heads: 2,
  }, { device: base.device });
  assertThrows(() => replicateLayers(both, [[0, 1]]), UnsupportedError, "encoder.block");
});
