import { assert, assertEquals, assertRejects } from "@std/assert";
import { getAdapterStateDict, isEqual } from "../../lib/adapters/checkpoint/state-dict.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { CheckpointError } from "../../lib/errors.ts";
import { vbLoraConfig } from "../../lib/methods/vblora.ts";
import { castTensor, toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { train } from "../../lib/training/train.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import { goldenCases } from "../golden-case.ts";

Deno.test("places in the bank are whole numbers below its size, or the file is refused", async () => {
  const base = await goldenBase("llama");
  const config = vbLoraConfig({
    r: 2,
    numVectors: 6,
    vectorLength: 16,
    saveOnlyTopkWeights: true,
    targetModules: ["q_proj"],
  });
  const tensors = getAdapterStateDict(getPeftModel(base, config));
  const key = [...tensors.keys()].find((name) => name.endsWith("A_topk_indices"))!;
  const { shape, dtype } = tensors.get(key)!;
  assertEquals([shape, dtype], [[2, 2, 2], "u8"]);
  const load = (indices: Tensor) =>
    loadAdapter(base, { config, tensors: new Map([...tensors, [key, indices]]) });
  await load(tensors.get(key)!);
  const beyond = (await toFloat32(tensors.get(key)!)).map((x, i) => i === 5 ? 6 : x);
  await assertRejects(
    () => load(castTensor(tensor(beyond, { shape }), "u8")),
    CheckpointError,
    "holds 6 at element 5",
  );
  await assertRejects(
    () => load(castTensor(tensors.get(key)!, "bf16")),
    CheckpointError,
    "no whole numbers",
  );
});

testOnceOnWebGpu(
  "what a file of choices holds can be trained, without the logits",
  async (device) => {
    const golden = goldenCases.find((one) =>
      one.peftType === "VBLORA" && one.name === "topk_only"
    )!;
    const base = await goldenBase(golden.kind, device);
    const loaded = await loadAdapter(base, golden.folder);
    const batch = { inputIds: [[5, 41, 3, 60, 7]], labels: [[5, 41, 3, 60, 7]] };
    const { model, history } = await train(setAdapter(loaded, "default"), [batch], {
      learningRate: 1e-2,
      steps: 8,
    });
    assert(history.at(-1)!.loss < history[0].loss);
    const [before, after] = [loaded, model].map((one) => getAdapterStateDict(one));
    assertEquals([...after.keys()], [...before.keys()]);
    for (const [key, tensor] of before) {
      assertEquals(key.endsWith("_topk_indices"), await isEqual(tensor, after.get(key)!), key);
    }
  },
);
