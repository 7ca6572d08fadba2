import { assertEquals, assertNotEquals } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { polyConfig } from "../../lib/methods/poly.ts";
import { train } from "../../lib/training/train.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";

Deno.test("the seed of a training says which skills are drawn", async () => {
  const config = polyConfig({
    taskType: "CAUSAL_LM",
    targetModules: ["q_proj"],
    r: 2,
    nTasks: 2,
    initWeights: false,
  });
  const model = getPeftModel(await goldenBase("llama", await testDevice("cpu")), config);
  const batch = { inputIds: [[1, 2, 3, 4], [4, 3, 2, 1]], taskIds: [0, 1] };
  const losses = async (seed: number) => {
    const options = { learningRate: 1e-3, steps: 3, seed };
    const { history } = await train(model, [batch, batch, batch], options);
    return history.map(({ loss }) => loss);
  };
  const first = await losses(1);
  assertEquals(await losses(1), first);
  assertNotEquals(await losses(2), first);
  // Numbers are drawn anew in each step and for each row.
  assertEquals(new Set(first).size, 3);
});
