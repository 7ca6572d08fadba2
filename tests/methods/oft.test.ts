import { assert } from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { oftConfig } from "../../lib/methods/oft.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import { apart } from "../steps.ts";

testOnceOnWebGpu(
  "the series and the exact transform turn in opposite directions for the same weights",
  async (device) => {
    const base = await goldenBase("llama", device);
    const logits = async (useCayleyNeumann: boolean, factor: number) => {
      const config = oftConfig({ oftBlockSize: 8, targetModules: ["q_proj"], useCayleyNeumann });
      const model = getPeftModel(base, config);
      const leaves = await Promise.all(
        [...getAdapterStateDict(model)].map(async ([key, leaf]) => {
          const values = (await toFloat32(leaf)).map((_, i) => factor * Math.sin(i + 1));
          return [key, tensor(values, { shape: leaf.shape })] as const;
        }),
      );
      const turned = await setAdapterStateDict(model, new Map(leaves));
      const { logits } = await forward(turned.model, { inputIds: [[1, 2, 3, 4, 5]] });
      return await toFloat32(logits);
    };
    const exact = await logits(false, 0.04);
    const back = apart(await logits(true, -0.04), exact),
      same = apart(await logits(true, 0.04), exact);
    assert(back < 1e-4 && same > 20 * back, `${back} and ${same} of the largest logit`);
  },
);
