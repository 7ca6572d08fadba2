import { assertEquals, assertRejects } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import { FileError, GraftError, TrainingError } from "../../lib/errors.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { train } from "../../lib/training/train.ts";
import type { TrainOptions } from "../../lib/training/train-options.ts";

const DATA = [{ inputIds: [[1, 2, 3, 4]] }, { inputIds: [[5, 6, 7, 8]] }];

async function adapted() {
  const base = await createModel({
    model_type: "llama",
    vocab_size: 37,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 1,
    num_attention_heads: 3,
  }, { device: "cpu", threads: 1 });
  return getPeftModel(base, loraConfig({ r: 2, taskType: "CAUSAL_LM" }));
}

async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await run(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}

Deno.test("parameters that are not finite after the last step are neither given nor saved", () =>
  inFolder(async (folder) => {
    const model = await adapted();
    using _device = model.base.device;
    const options: TrainOptions = {
      learningRate: 1e-3,
      steps: 1,
      checkpoint: { folder, every: 1 },
    };
    const { checkpoint } = await train(model, DATA, options);
    assertEquals(names(folder), ["checkpoint-1"]);
    // The names that checkpoints of all versions have.
    const { tensors } = await openSafetensors(`${checkpoint}/optimizer.safetensors`);
    const parts = [...trainableLeaves(model).keys()].flatMap((name) =>
      ["parameters", "mean", "square"].map((part) => `${part}.${name}`)
    );
    assertEquals([...tensors.keys()].sort(), parts.sort());
    // Beyond the largest 32-bit float, although loss and gradient of the step are fine.
    const error = await assertRejects(
      () => train(model, DATA, { ...options, learningRate: 1e39, steps: 2, resume: folder }),
      TrainingError,
      "after step 2",
    );
    assertEquals([error.code, error.details.checkpoint], ["NOT_FINITE", checkpoint]);
    assertEquals(names(folder), ["checkpoint-1"]);
    await assertRejects(
      () => train(model, DATA, { learningRate: 1e39, steps: 1 }),
      TrainingError,
      "no checkpoint of this run",
    );
  }));

Deno.test("a damaged checkpoint is refused, each part with its own error", () =>
  inFolder(async (folder) => {
    const model = await adapted();
    using _device = model.base.device;
    const { checkpoint } = await train(model, DATA, {
      learningRate: 1e-3,
      steps: 2,
      seed: 3,
      checkpoint: { folder, every: 2 },
    });
    const state = `${checkpoint}/trainer_state.json`,
      weights = `${checkpoint}/optimizer.safetensors`;
    const [text, bytes] = [await Deno.readTextFile(state), await Deno.readFile(weights)];
    const json = JSON.parse(text);
    const resume = (options: Partial<TrainOptions> = {}) =>
      train(model, DATA, { learningRate: 1e-3, steps: 3, resume: folder, ...options });
    const cases: readonly (readonly [string, string, Uint8Array])[] = [
      ["JSON_INVALID", text.slice(0, -5), bytes],
      ["CHECKPOINT_FORMAT", JSON.stringify({ ...json, format: 2 }), bytes],
      ["CHECKPOINT_FORMAT", JSON.stringify({ ...json, step: "2" }), bytes],
      ["CHECKPOINT_FORMAT", JSON.stringify({ ...json, history: null }), bytes],
      ["CHECKPOINT_FORMAT", JSON.stringify({ ...json, seed: undefined }), bytes],
      ["CHECKPOINT_FORMAT", JSON.stringify({ ...json, history: [{}, {}] }), bytes],
      ["CHECKPOINT_FORMAT", JSON.stringify({ ...json, history: json.history.toReversed() }), bytes],
      ["CHECKPOINT_FORMAT", JSON.stringify({ ...json, fingerprint: { data: 1 } }), bytes],
      ["SAFETENSORS_TRUNCATED", text, bytes.subarray(0, bytes.length - 4)],
    ];
    for (const [code, contents, tensors] of cases) {
      await Deno.writeTextFile(state, contents);
      await Deno.writeFile(weights, tensors);
      const error = await assertRejects(() => resume(), GraftError);
      assertEquals(error.code, code, error.message);
    }
    await Deno.writeTextFile(state, text);
    await Deno.writeFile(weights, bytes);
    const error = await assertRejects(() => resume({ seed: 4 }), TrainingError, "seed 3, not 4");
    assertEquals(error.code, "RESUME_MISMATCH");
    assertEquals((await resume()).history.length, 3);
    await Deno.remove(weights);
    await assertRejects(() => resume(), FileError, "optimizer.safetensors");
  }));

Deno.test("evaluation data are looked at before the first step", () =>
  inFolder(async (folder) => {
    const model = await adapted();
    using _device = model.base.device;
    let steps = 0;
    const error = await assertRejects(() =>
      train(model, DATA, {
        learningRate: 1e-3,
        evalData: [{ inputIds: [[1, 2]] }, { inputIds: [[1, 99]] }],
        checkpoint: { folder: `${folder}/run`, every: 1 },
        onStep: () => steps++,
      }), GraftError);
    assertEquals([error.code, steps, names(folder)], ["TOKEN_ID_RANGE", 0, []]);
  }));

Deno.test("a folder that becomes unwritable loses nothing that was saved", () =>
  inFolder(async (folder) => {
    const model = await adapted();
    using _device = model.base.device;
    const error = await assertRejects(() =>
      train(model, DATA, {
        learningRate: 1e-3,
        steps: 3,
        checkpoint: { folder, every: 1 },
        onStep: ({ step }) => {
          if (step !== 2) return;
          Deno.renameSync(folder, `${folder}-moved`);
          Deno.writeTextFileSync(folder, "a file in its place");
        },
      }), FileError);
    assertEquals(error.code, "WRITE_FAILED");
    await Deno.remove(folder);
    await Deno.rename(`${folder}-moved`, folder);
    assertEquals(names(folder), ["checkpoint-1"]);
  }));

Deno.test("a run goes on with its own data, order, batches and config only", () =>
  inFolder(async (folder) => {
    const model = await adapted();
    using _device = model.base.device;
    const options: TrainOptions = {
      learningRate: 1e-3,
      steps: 3,
      gradientAccumulation: 2,
      checkpoint: { folder, every: 3 },
    };
    const data = [...DATA, { inputIds: [[3, 1, 4, 1]] }];
    await train(model, data, options);
    const resume = (given: typeof data, more: Partial<TrainOptions> = {}, from = model) =>
      train(from, given, { ...options, steps: 5, checkpoint: undefined, resume: folder, ...more });
    assertEquals((await resume(data)).history.length, 5);
    const other = [...data.slice(0, 2), { inputIds: [[3, 1, 4, 2]] }];
    const cases: readonly (readonly [string, ...Parameters<typeof resume>])[] = [
      ["5 batches", other],
      ["5 batches", data.toReversed()],
      ["5 batches", [{ inputIds: [[1, 2, 3, 4], [5, 6, 7, 8]] }, data[2]]],
      ["5 batches", data.map((batch) => ({ ...batch, attentionMask: [[0, 1, 1, 1]] }))],
      ["gradientAccumulation was 2 and is 1", data, { gradientAccumulation: 1 }],
      [
        "lora_alpha of the adapter default was 8 and is 4",
        data,
        {},
        getPeftModel(model.base, loraConfig({ r: 2, loraAlpha: 4, taskType: "CAUSAL_LM" })),
      ],
    ];
    for (const [message, ...given] of cases) {
      const error = await assertRejects(() => resume(...given), TrainingError, message);
      assertEquals(error.code, "RESUME_MISMATCH");
    }
    assertEquals((await resume(other, { resumeAnyway: true })).history.length, 5);
  }));

Deno.test("what a killed process left in a run's folder is cleared", () =>
  inFolder(async (folder) => {
    const model = await adapted();
    using _device = model.base.device;
    const options: TrainOptions = {
      learningRate: 1e-3,
      steps: 2,
      checkpoint: { folder, every: 1 },
    };
    await train(model, DATA, options);
    await Deno.mkdir(`${folder}/.checkpoint-abc`);
    await Deno.writeTextFile(`${folder}/.checkpoint-abc/optimizer.safetensors`, "half");
    await Deno.rename(`${folder}/checkpoint-2`, `${folder}/checkpoint-2-old`);
    await Deno.mkdir(`${folder}/checkpoint-1-old`);
    await train(model, DATA, { ...options, steps: 3, resume: `${folder}/checkpoint-1` });
    assertEquals(names(folder), ["checkpoint-1", "checkpoint-2", "checkpoint-3"]);
  }));

Deno.test("a resumed run knows the best step of the run before", () =>
  inFolder(async (folder) => {
    const model = await adapted();
    using _device = model.base.device;
    const options: TrainOptions = {
      learningRate: 0.5,
      steps: 6,
      evalData: [{ inputIds: [[9, 9, 9, 9]] }],
      evalEvery: 1,
      loadBest: true,
      checkpoint: { folder, every: 1, limit: 1 },
    };
    const whole = await train(model, DATA, options);
    assertEquals(names(folder).includes(`checkpoint-${whole.best!.step}`), true);
    await Deno.remove(folder, { recursive: true });
    await train(model, DATA, { ...options, steps: 4 });
    const resumed = await train(model, DATA, { ...options, resume: folder });
    assertEquals([resumed.best, resumed.history], [whole.best, whole.history]);
    for (const [name, leaf] of trainableLeaves(resumed.model)) {
      assertEquals(await leaf.data(), await trainableLeaves(whole.model).get(name)!.data());
    }
  }));
