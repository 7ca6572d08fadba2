import { assert, assertEquals } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import { pveraConfig } from "../../lib/methods/pvera.ts";
import { createForwardPass } from "../../lib/model/forward-pass.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { testOnceOnWebGpu, testOnDevices } from "../devices.ts";
import { apart } from "../steps.ts";

testOnDevices("what training draws is normal, and another from seed to seed", async (device) => {
  const graph = createGraph();
  const seed = input(graph, "seed", { shape: [1], dtype: "i32" });
  const base = await goldenBase("llama", device);
  const pass = createForwardPass(graph, base, { seed } as never);
  const program = programOf({ y: pass.noise("site", [64, 129], "normal") });
  const draw = async (number: number) => {
    const executable = await device.compile(program);
    const { y } = await executable.run({ seed: tensor(Int32Array.of(number)) });
    return (await toFloat32(y)).slice();
  };
  const numbers = await draw(3);
  const moment = (power: number) =>
    numbers.reduce((sum, x) => sum + x ** power, 0) / numbers.length;
  // Each within five standard errors.
  const error = 5 / Math.sqrt(numbers.length);
  assert(Math.abs(moment(1)) < error, `mean ${moment(1)}`);
  assert(Math.abs(moment(2) - 1) < error * Math.sqrt(2), `variance ${moment(2)}`);
  assert(Math.abs(moment(4) - 3) < error * Math.sqrt(96), `fourth moment ${moment(4)}`);
  assertEquals(await draw(3), numbers);
  assert((await draw(4)).every((x, i) => x !== numbers[i]));
});

testOnceOnWebGpu("beyond training outputs are the mean, or drawn by a seed", async (device) => {
  const base = await goldenBase("llama", device);
  const inputs = { inputIds: [[5, 41, 3]] };
  const logits = async (fields: object) => {
    const config = pveraConfig({ r: 4, targetModules: ["q_proj", "v_proj"], ...fields });
    const model = await randomized(getPeftModel(base, config));
    const merged = (await forward(mergeAndUnload(model), inputs)).logits;
    return [(await forward(model, inputs)).logits, merged].map((t) => toFloat32(t));
  };
  const [mean, merged] = await Promise.all(await logits({}));
  assert(apart(mean, merged) < 2e-5);
  const [drawn, still] = await Promise.all(await logits({ sampleAtInference: true }));
  assert(apart(drawn, mean) > 1e-3);
  assertEquals(still, merged);
  const [zero] = await logits({ sampleAtInference: true, generatorSeed: 0 });
  assertEquals(await zero, drawn);
  const [other] = await logits({ sampleAtInference: true, generatorSeed: 1 });
  assert(apart(await other, drawn) > 1e-3);
});
