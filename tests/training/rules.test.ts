import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import type { TrainingRule } from "../../lib/adapters/training-rule.ts";
import type { Device } from "../../lib/device/device.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { type LoraConfig, loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { abs, add, mul } from "../../lib/ops/elementwise.ts";
import { sum } from "../../lib/ops/reduce.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { loraPlus } from "../../lib/training/lora-plus.ts";
import { train } from "../../lib/training/train.ts";
import type { TrainOptions } from "../../lib/training/train-options.ts";
import { testOnDevices } from "../devices.ts";

const A = "a0.model.layers.0.self_attn.q_proj.lora_A";
const B = "a0.model.layers.0.self_attn.q_proj.lora_B";

async function adapted(device: Device): Promise<PeftModel> {
  const base = await createModel({
    model_type: "llama",
    vocab_size: 37,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 1,
    num_attention_heads: 3,
    initializer_range: 0.2,
  }, { device, seed: 3 });
  const config = loraConfig({ r: 3, initLoraWeights: false, targetModules: ["q_proj"] });
  return getPeftModel(base, config, { seed: 5 });
}

const DATA = [
  { inputIds: [[1, 2, 3, 4, 9], [5, 6, 7, 8, 30]] },
  { inputIds: [[9, 8, 7, 3, 5], [2, 2, 1, 0, 36]] },
];

/**
 * What rank allocation needs: a penalty on A, an importance |w · ∇| of A as state, a mask on the
 * rows of A that follows from it, gradients that leave B as it is, and a config that changes in the
 * end.
 */
function importanceRule(seen: { steps: number[]; importance?: Float32Array }): TrainingRule {
  return {
    name: "importance",
    inputs: {
      strength: {
        shape: [1],
        dtype: "f32",
        at: ({ step }) => tensor(Float32Array.of(0.1 * step)),
      },
    },
    state: {
      mean: tensor(new Float32Array(72).fill(1), { shape: [3, 24] }),
      mask: tensor(Float32Array.of(1, 1, 1), { shape: [3, 1] }),
    },
    penalty: ({ leaves, inputs }) => {
      const a = leaves.get(A)!;
      return sum(mul(mul(a, a), inputs.strength));
    },
    gradient: ({ gradients }) => new Map([[B, mul(gradients.get(B)!, 0)]]),
    afterStep({ leaves, gradients, state }) {
      const a = leaves.get(A)!;
      const importance = abs(mul(a, gradients.get(A)!));
      return {
        state: { mean: add(mul(state.mean, 0.9), mul(importance, 0.1)) },
        leaves: new Map([[A, mul(a, state.mask)]]),
      };
    },
    async betweenSteps({ step }, run) {
      seen.steps.push(step);
      if (step === 2) {
        await run.writeState({ mask: tensor(new Float32Array([1, 0, 1]), { shape: [3, 1] }) });
      }
    },
    async finish(model, { mean }) {
      seen.importance = await mean.data() as Float32Array;
      const peft = model as PeftModel;
      const [[name, adapter]] = peft.adapters;
      const config = { ...adapter.config, rankPattern: { q_proj: 2 } };
      return { ...peft, adapters: new Map([[name, { ...adapter, config }]]) };
    },
  };
}

const OPTIONS: TrainOptions = { learningRate: 1e-2, steps: 4, weightDecay: 0, seed: 2 };

async function leaf(model: PeftModel, name: string): Promise<Float32Array> {
  return await toFloat32(trainableLeaves(model).get(name)!);
}

testOnDevices(
  "a rule penalises, changes gradients, keeps state and has the last word",
  async (device) => {
    const model = await adapted(device);
    const plain = await train(model, DATA, OPTIONS);
    const seen: Parameters<typeof importanceRule>[0] = { steps: [] };
    const ruled = await train(model, DATA, { ...OPTIONS, rules: [importanceRule(seen)] });
    assertEquals(seen.steps, [1, 2, 3, 4]);

    const squares = (await leaf(model, A)).reduce((n, x) => n + x * x, 0);
    const [{ loss }] = plain.history;
    assertAlmostEquals(ruled.history[0].loss, loss + 0.1 * squares, 1e-5 * loss);
    assertEquals(await leaf(ruled.model, B), await leaf(model, B));

    const rows = await leaf(ruled.model, A);
    assertEquals(rows.map(Math.abs).map((x) => Number(x > 0)).reduce((n, x) => n + x, 0), 48);
    assert(rows.subarray(24, 48).every((x) => x === 0), "the row is masked from step 3 on");

    const pattern = ({ adapters }: PeftModel) =>
      (adapters.get("default")!.config as LoraConfig).rankPattern;
    assertEquals([pattern(ruled.model), pattern(model)], [{ q_proj: 2 }, {}]);
    assert(
      seen.importance!.every((x) => x > 0.6561 - 1e-6 && x < 1),
      "four steps of decay, and more",
    );
  },
);

testOnDevices(
  "a rule counts once where batches are accumulated, and is resumed",
  async (device) => {
    const folder = await Deno.makeTempDir();
    const model = await adapted(device);
    const run = (options: Partial<TrainOptions>, seen = { steps: [] as number[] }) =>
      train(model, DATA, {
        ...OPTIONS,
        gradientAccumulation: 2,
        rules: [importanceRule(seen)],
        ...options,
      });
    const joined = { inputIds: DATA.flatMap(({ inputIds }) => inputIds) };
    const one = await train(model, [joined], {
      ...OPTIONS,
      rules: [importanceRule({ steps: [] })],
    });
    const two = await run({});
    one.history.forEach(({ loss, gradientNorm }, i) => {
      assertAlmostEquals(two.history[i].loss, loss, 2e-5 * loss);
      assertAlmostEquals(two.history[i].gradientNorm, gradientNorm, 1e-4 * gradientNorm);
    });
    await run({ steps: 3, checkpoint: { folder, every: 3 } });
    const seen = { steps: [] as number[] };
    const rest = await run({ resume: folder }, seen);
    assertEquals(rest.history, two.history);
    assertEquals(seen.steps, [4]);
    assertEquals(await leaf(rest.model, A), await leaf(two.model, A));
    await Deno.remove(folder, { recursive: true });
  },
);

testOnDevices("steps with groups and rules create nothing in the steady state", async (device) => {
  const model = await adapted(device);
  const { betweenSteps: _, ...rule } = importanceRule({ steps: [] });
  const readings: unknown[] = [];
  await train(model, [DATA[0]], {
    learningRate: 1e-2,
    optimizer: loraPlus({ loraplusLrRatio: 8 }),
    rules: [rule],
    steps: 6,
    onStep() {
      const { buffersCreated, pipelinesCreated, bindGroupsCreated } = device.memory();
      readings.push({ buffersCreated, pipelinesCreated, bindGroupsCreated });
    },
  });
  assertEquals(readings[5], readings[1]);
});
