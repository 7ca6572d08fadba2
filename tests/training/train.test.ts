import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import type { Device } from "../../lib/device/device.ts";
import { ShapeError, TrainingError, ValueError } from "../../lib/errors.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { withParameters } from "../../lib/model/model-graph.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import type { TrainingBatch } from "../../lib/training/batch.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import { train } from "../../lib/training/train.ts";
import type { TrainOptions } from "../../lib/training/train-options.ts";
import { testOnDevices } from "../devices.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  num_key_value_heads: 1,
  max_position_embeddings: 64,
  initializer_range: 0.2,
};

async function adapted(device: Device, dropout = 0) {
  const base = await createModel(CONFIG, { device, seed: 3 });
  const config = loraConfig({
    r: 3,
    loraAlpha: 7,
    loraDropout: dropout,
    initLoraWeights: false,
    targetModules: ["q_proj", "down_proj"],
    taskType: "CAUSAL_LM",
  });
  return getPeftModel(base, config, { seed: 5 });
}

/** Batches of 2 rows of 7 tokens. */
function batches(count: number): TrainingBatch[] {
  return Array.from({ length: count }, (_, n) => ({
    inputIds: [0, 1].map((r) =>
      Array.from({ length: 7 }, (_, i) => (n * 14 + r * 7 + i * i * 3 + 1) % 37)
    ),
  }));
}

const OPTIONS: TrainOptions = { learningRate: 1e-2, steps: 6, weightDecay: 0.1, seed: 2 };

testOnDevices("training lowers the loss and leaves the given model as it was", async (device) => {
  const model = await adapted(device);
  const data = batches(2);
  const before = await evaluate(model, data);
  const { model: trained, history } = await train(model, data, { ...OPTIONS, steps: 20 });
  assertEquals(history.length, 20);
  assert((await evaluate(trained, data)).loss < before.loss * 0.9);
  assertEquals((await evaluate(model, data)).loss, before.loss);
});

testOnDevices("accumulated batches count as one large batch", async (device) => {
  const model = await adapted(device);
  const [a, b] = batches(2) as { inputIds: number[][] }[];
  const uneven: TrainingBatch = {
    ...b,
    labels: b.inputIds.map((r) => r.map((id, i) => i < 4 ? -100 : id)),
  };
  const large: TrainingBatch = {
    inputIds: [...a.inputIds, ...b.inputIds],
    labels: [...a.inputIds, ...(uneven.labels as number[][])],
  };
  const one = await train(model, [large], { ...OPTIONS, steps: 3 });
  const two = await train(model, [a, uneven], { ...OPTIONS, steps: 3, gradientAccumulation: 2 });
  one.history.forEach(({ loss, gradientNorm }, i) => {
    assertAlmostEquals(two.history[i].loss, loss, 2e-5 * loss);
    assertAlmostEquals(two.history[i].gradientNorm, gradientNorm, 1e-4 * gradientNorm);
  });
});

testOnDevices("rematerialisation changes no loss", async (device) => {
  const model = await adapted(device, 0.3);
  const plain = await train(model, batches(3), { ...OPTIONS, steps: 4 });
  const again = await train(model, batches(3), {
    ...OPTIONS,
    steps: 4,
    gradientCheckpointing: true,
  });
  plain.history.forEach(({ loss }, i) =>
    assertAlmostEquals(again.history[i].loss, loss, 1e-5 * loss)
  );
});

testOnDevices("packed samples do not see each other", async (device) => {
  const model = await adapted(device);
  const [a, b] = [[5, 9, 2, 30], [11, 3, 8, 1, 20]];
  const apart = await evaluate(model, [{ inputIds: [a] }, { inputIds: [b] }]);
  const packed = await evaluate(model, [{
    inputIds: [[...a, ...b, 0]],
    segments: [[1, 1, 1, 1, 2, 2, 2, 2, 2, 0]],
  }]);
  assertEquals(packed.targets, apart.targets);
  assertAlmostEquals(packed.loss, apart.loss, 1e-5 * apart.loss);
});

testOnDevices("a resumed run takes the same steps", async (device) => {
  const folder = await Deno.makeTempDir();
  const model = await adapted(device, 0.2);
  const options: TrainOptions = { ...OPTIONS, schedule: "cosine", gradientAccumulation: 2 };
  const whole = await train(model, batches(5), options);
  const abort = new AbortController();
  const part = await train(model, batches(5), {
    ...options,
    checkpoint: { folder },
    signal: abort.signal,
    onStep: ({ step }) => {
      if (step === 3) abort.abort();
    },
  });
  assertEquals([part.stopped, part.history.length], [true, 3]);
  assert(part.checkpoint?.endsWith("checkpoint-3"));
  const rest = await train(model, batches(5), { ...options, resume: folder });
  assertEquals(rest.history, whole.history);
  const [x, y] = [trainableLeaves(whole.model), trainableLeaves(rest.model)];
  for (const [name, leaf] of x) assertEquals(await y.get(name)!.data(), await leaf.data());
  await Deno.remove(folder, { recursive: true });
});

testOnDevices("dropout can be left off, that of the base too", async (device) => {
  const config = {
    model_type: "gpt2",
    vocab_size: 37,
    n_embd: 24,
    n_layer: 1,
    n_head: 2,
    n_positions: 32,
  };
  const base = await createModel(config, { device, seed: 3 });
  const lora = loraConfig({ r: 2, loraDropout: 0.5, initLoraWeights: false });
  const model = getPeftModel(base, lora);
  const [data] = [batches(1)];
  const { loss } = await evaluate(model, data);
  const first = async (options: Partial<TrainOptions>) =>
    (await train(model, data, { ...OPTIONS, ...options, steps: 1 })).history[0].loss;
  assertAlmostEquals(await first({ dropout: false }), loss, 1e-5);
  assert(Math.abs(await first({}) - loss) > 1e-3);
});

testOnDevices("dropout depends on the seed only", async (device) => {
  const model = await adapted(device, 0.5);
  const losses = async (seed: number) =>
    (await train(model, batches(2), { ...OPTIONS, steps: 2, seed })).history.map((h) => h.loss);
  assertEquals(await losses(1), await losses(1));
  assert((await losses(1))[0] !== (await losses(2))[0]);
});

testOnDevices(
  "a loss that is not finite stops the run and keeps the last checkpoint",
  async (device) => {
    const folder = await Deno.makeTempDir();
    const model = await adapted(device);
    const error = await assertRejects(
      () =>
        train(model, batches(2), {
          ...OPTIONS,
          learningRate: 1e30,
          steps: 9,
          checkpoint: { folder, every: 1 },
        }),
      TrainingError,
      "Training stopped",
    );
    assertEquals(error.code, "NOT_FINITE");
    const last = `${folder}/checkpoint-${(error.details.step as number) - 1}`;
    assertEquals(error.details.checkpoint, last);
    const names = [...Deno.readDirSync(last)].map((e) => e.name).sort();
    assert(names.includes("optimizer.safetensors") && names.includes("adapter_model.safetensors"));
    await Deno.remove(folder, { recursive: true });
  },
);

testOnDevices("all parameters of a base model can be trained, tied ones once", async (device) => {
  const model = await createModel({ ...CONFIG, tie_word_embeddings: true }, { device, seed: 1 });
  const { model: trained, history } = await train(model, batches(1), { ...OPTIONS, steps: 8 });
  assert(history[7].loss < history[0].loss * 0.8);
  assertEquals(trained.tied, model.tied);
});

testOnDevices("data and options that make no sense are errors", async (device) => {
  const model = await adapted(device);
  const fails = (
    data: TrainingBatch[],
    options: Partial<TrainOptions>,
    kind: ErrorConstructor,
    text: string,
  ) =>
    // deno-lint-ignore no-explicit-any -- error classes have different constructors
    assertRejects(() => train(model, data, { ...OPTIONS, ...options }), kind as any, text);
  const errors = { TrainingError, ValueError, ShapeError } as unknown as Record<
    string,
    ErrorConstructor
  >;
  await fails([], {}, errors.TrainingError, "no batch");
  await fails(
    [{ inputIds: [[1, 2]], labels: [[-100, -100]] }],
    {},
    errors.TrainingError,
    "No label counts",
  );
  await fails([{ inputIds: [[1, 37]] }], {}, errors.ValueError, "token id 37");
  await fails([{ inputIds: [[1, 2], [3]] }], {}, errors.ShapeError, "row 1 has 1");
  await fails(
    [{ inputIds: [[1, 2]], attentionMask: [[1]] }],
    {},
    errors.ShapeError,
    "attentionMask",
  );
  await fails(batches(1), { learningRate: -1 }, errors.ValueError, "learningRate");
  await fails(batches(1), { resume: "/nonexistent" }, errors.TrainingError, "no checkpoint");
});

testOnDevices("a checkpoint of another config is refused", async (device) => {
  const folder = await Deno.makeTempDir();
  await train(await adapted(device), batches(1), {
    ...OPTIONS,
    steps: 1,
    checkpoint: { folder, every: 1 },
  });
  const base = await createModel(CONFIG, { device, seed: 3 });
  const other = getPeftModel(
    base,
    loraConfig({ r: 4, targetModules: ["q_proj"], taskType: "CAUSAL_LM" }),
  );
  await assertRejects(
    () => train(other, batches(1), { ...OPTIONS, resume: folder }),
    TrainingError,
    "other leaves",
  );
  await Deno.remove(folder, { recursive: true });
});

testOnDevices("weights that hold no number make the first loss fail", async (device) => {
  const base = await createModel(CONFIG, { device, seed: 3 });
  const broken = withParameters(
    base,
    new Map([["model.norm.weight", tensor(new Float32Array(24).fill(NaN))]]),
  );
  const model = getPeftModel(
    broken,
    loraConfig({ targetModules: ["q_proj"], taskType: "CAUSAL_LM" }),
  );
  await assertRejects(() => train(model, batches(1), OPTIONS), TrainingError, "step 1 is NaN");
});
