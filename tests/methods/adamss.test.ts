import { assert } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { train } from "../../lib/training/train.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import { batchOf, expectedOf, goldenCases, peftConfig } from "../golden-case.ts";
import golden from "./adamss.golden.json" with { type: "json" };

testOnceOnWebGpu("training leaves the subspaces that PEFT leaves", async (device) => {
  const { folder } = goldenCases.find(({ peftType }) => peftType === "ADAMSS")!;
  const batch = batchOf(await expectedOf({ folder }));
  const model = getPeftModel(
    await goldenBase("llama", device),
    peftConfig("ADAMSS", golden.config),
    { seed: 3 },
  );
  const { history } = await train(model, Array(golden.losses.length).fill(batch) as never, {
    learningRate: 1e-2,
    weightDecay: 0.1,
    dropout: false,
  });
  history.forEach(({ loss }, i) => {
    const far = Math.abs(loss - golden.losses[i]) / golden.losses[i];
    assert(far < 1e-5, `loss ${i}: ${loss} for ${golden.losses[i]} (${far})`);
  });
});
