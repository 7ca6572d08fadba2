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
