import { assert, assertEquals } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import type { AdaLoraConfig } from "../../lib/methods/adalora.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { train } from "../../lib/training/train.ts";
import type { TrainOptions } from "../../lib/training/train-options.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";
import { batchOf, expectedOf } from "../golden-case.ts";
import { inFolder } from "../io/folder.ts";

Deno.test(
  "an allocation that a checkpoint resumes takes the ranks that it takes without a break",
  async () => {
    const folder = `${golden}adapters/adalora/allocated/`;
    const batch = batchOf(await expectedOf({ folder }));
    const model = await loadAdapter(await goldenBase("llama", await testDevice("cpu")), folder, {
      isTrainable: true,
    });
    const run = (options: Partial<TrainOptions>) =>
      train(model, Array(8).fill(batch) as never, {
        learningRate: 0.01,
        weightDecay: 0,
        steps: 8,
        dropout: false,
        ...options,
      });
    await inFolder(async (folder) => {
      const whole = await run({});
      // The budget shrinks from step 2 on; here ranks have been taken, and more are to be.
      await run({ steps: 4, checkpoint: { folder, every: 4 } });
      const rest = await run({ resume: folder });
      assertEquals(rest.history, whole.history);
      const [a, b] = [rest, whole].map(({ model }) => model.adapters.get("default")!);
      const { rankPattern } = a.config as AdaLoraConfig;
      assert(Object.values(rankPattern!).flat().includes(false));
      assertEquals(a.config, b.config);
      const wanted = getAdapterStateDict(whole.model);
      for (const [key, tensor] of getAdapterStateDict(rest.model)) {
        assertEquals(await toFloat32(tensor), await toFloat32(wanted.get(key)!), key);
      }
    });
  },
);
