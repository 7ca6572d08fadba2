/**
 * torch's `nn.MultiheadAttention` in a model of one's own, against PEFT on the same module.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import type { Device } from "../../lib/device/device.ts";
import { ConfigError, TargetError } from "../../lib/errors.ts";
import { defineModel } from "../../lib/io/define-model.ts";
import type { TargetConfig } from "../../lib/methods/config.ts";
import { ia3Config } from "../../lib/methods/ia3.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { fromPeftJson } from "../../lib/methods/peft-json.ts";
import { add, mul, sub } from "../../lib/ops/elementwise.ts";
import { sum } from "../../lib/ops/reduce.ts";
import type { Objective } from "../../lib/tasks/objective.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { testDevice, testOnceOnWebGpu } from "../devices.ts";
import { fileKey } from "../golden-case.ts";
import { fill, leafOf, SHARE } from "../golden-values.ts";
import { apart } from "../steps.ts";
import golden from "./multihead.golden.json" with { type: "json" };

const SHAPES = {
  "seen.weight": [8, 5],
  "seen.bias": [8],
  "attn.in_proj_weight": [24, 8],
  "attn.in_proj_bias": [24],
  "attn.out_proj.weight": [8, 8],
  "attn.out_proj.bias": [8],
  "cross.in_proj_weight": [24, 8],
  "cross.out_proj.weight": [8, 8],
  "head.weight": [3, 8],
  "head.bias": [3],
};
const INPUTS = { x: fill("x", [2, 3, 5]), rows: fill("rows", [2, 4, 5]) };

const define = (device: Device) =>
  defineModel({
    inputs: { x: { axes: ["batch", 3, 5] }, rows: { axes: ["batch", 4, 5] } },
    modules(m) {
      const seen = m.linear("seen", { in: 5, out: 8 });
      const attn = m.multiheadAttention("attn", { features: 8, heads: 2 });
      const cross = m.multiheadAttention("cross", { features: 8, heads: 4, bias: false });
      const head = m.linear("head", { in: 8, out: 3 });
      return (inputs) => {
        const own = seen(inputs.x), x = add(own, attn(own));
        return { scores: head(add(x, cross(x, seen(inputs.rows)))) };
      };
    },
  }, {
    device,
    weights: new Map(Object.entries(SHAPES).map(([name, shape]) => [name, fill(name, shape)])),
  });

async function assertScores(model: AnyModel, want: readonly number[], what: string): Promise<void> {
  const { scores } = await forward<{ scores: Tensor }>(model, INPUTS);
  const far = apart(await toFloat32(scores), want);
  assert(far < SHARE, `${what}: ${far} of the largest`);
}

/** The mean of the squares of what scores are off. */
const squares: Objective = {
  name: "squares",
  outputs: ["scores"],
  inputs: () => [{ name: "wanted", axes: ["batch", 3, 3], dtype: "f32", doc: "Scores." }],
  prepare: ({ parts: { wanted: { data, shape } } }) => ({
    labels: { wanted: tensor(data, { shape }) },
    count: data.length,
  }),
  loss({ scores }, { wanted }) {
    const off = sub(scores, wanted);
    return sum(mul(off, off));
  },
};
const BATCH = { ...INPUTS, wanted: fill("wanted", [2, 3, 3]) };

golden.cases.forEach(({ config: json, init, gradients, ...expected }, i) => {
  testOnceOnWebGpu(`nn.MultiheadAttention ${i} is adapted as in PEFT`, async (device) => {
    const base = await define(device), config = fromPeftJson(json) as TargetConfig;
    await assertScores(base, golden.base, "base");
    const start = getPeftModel(base, config, { seed: 7 });
    await assertScores(start, expected.start, "start");
    const values = new Map<string, Tensor>();
    const keys = Object.entries(init).filter(([, numbers]) => numbers !== undefined);
    const leaves = getAdapterStateDict(start);
    assertEquals([...leaves.keys()].sort(), keys.map(([key]) => key).sort());
    for (const [key, numbers] of keys) {
      const { shape } = leaves.get(key)!;
      // Normal numbers are as exact as the platform's sine and logarithm.
      assert(apart(await toFloat32(leaves.get(key)!), numbers, 1) < 5e-7, key);
      values.set(key, fill(key, shape));
    }
    const { model } = await setAdapterStateDict(start, values);
    await assertScores(model, expected.scores, "scores");
    await assertScores(mergeAndUnload(model), expected.merged, "merged");
    const computed = await computeGradients(model, BATCH, { objective: squares });
    const wanted = Object.entries(gradients).filter(([, numbers]) => numbers !== undefined);
    assertEquals(computed.gradients.size, wanted.length);
    const scale = Math.max(...wanted.flatMap(([, numbers]) => numbers.map(Math.abs)));
    for (const [parameter, numbers] of wanted) {
      const got = await toFloat32(computed.gradients.get(leafOf(model, fileKey(parameter)))!);
      assert(apart(got, numbers, scale) < SHARE, parameter);
    }
    const { history } = await train(model, [BATCH, BATCH, BATCH], {
      objective: squares,
      learningRate: 1e-2,
      weightDecay: 0.1,
    });
    const losses = history.map(({ loss }) => loss);
    assert(apart(losses, expected.losses) < 1e-5, `${losses} for ${expected.losses}`);
  });
});

Deno.test("what PEFT's layer of nn.MultiheadAttention has not is refused", async () => {
  const base = await define(await testDevice("cpu"));
  const adapt = (fields: object) => () =>
    getPeftModel(base, loraConfig({ targetModules: ["attn"], ...fields }));
  assertThrows(adapt({ useDora: true }), TargetError, "multihead");
  assertThrows(adapt({ initLoraWeights: "pissa" }), ConfigError, "pissa");
  assertThrows(adapt({ loraBias: true }), ConfigError, "loraBias");
  assertThrows(adapt({ targetModules: ["attn.out_proj"] }), TargetError, "Name attn.");
  assertThrows(
    () => getPeftModel(base, ia3Config({ targetModules: ["attn"], feedforwardModules: [] })),
    TargetError,
    "multihead",
  );
});
