/**
 * Runs as transformers' Trainer makes them: windows at the end of an epoch, the best and the latest
 * checkpoints, early stopping.
 *
 * @module
 */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import type { Schedule } from "../../lib/training/schedule.ts";
import { train } from "../../lib/training/train.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import { testDevice, testOnDevices } from "../devices.ts";
import runs from "./trainer.golden.json" with { type: "json" };

type Row = typeof runs[number]["train"][number];

function batchOf(rows: readonly Row[]) {
  return { inputIds: rows.map((row) => row.input_ids), labels: rows.map((row) => row.labels) };
}

/** Trainer's batches of two rows. */
function batches(rows: readonly Row[]) {
  return rows.flatMap((_, i) => i % 2 ? [] : [batchOf(rows.slice(i, i + 2))]);
}

for (const run of runs) {
  testOnDevices(`as Trainer: ${run.name}`, async (device) => {
    const { settings } = run, limit = settings.save_total_limit;
    const model = await loadAdapter(await goldenBase("llama", device), `${golden}lora/basic`, {
      isTrainable: true,
    });
    const folder = await Deno.makeTempDir();
    try {
      const { model: trained, history, best } = await train(model, batches(run.train), {
        learningRate: settings.learning_rate,
        schedule: settings.lr_scheduler_type as Schedule,
        epochs: settings.num_train_epochs,
        gradientAccumulation: settings.gradient_accumulation_steps,
        weightDecay: 0.01,
        ...(limit === undefined ? {} : {
          evalData: [batchOf(run.eval)],
          evalEvery: 1,
          loadBest: true,
          checkpoint: { folder, every: 1, limit },
        }),
        ...(settings.patience === null ? {} : {
          earlyStopping: { patience: settings.patience, threshold: settings.threshold },
        }),
      });
      assertEquals(history.length, run.steps.length);
      for (const [i, { loss, learningRate }] of run.steps.entries()) {
        assertAlmostEquals(history[i].loss, loss, 1e-5 * loss);
        assertAlmostEquals(history[i].learningRate, learningRate, 1e-9);
        if (limit !== undefined) {
          assertAlmostEquals(history[i].evalLoss!, run.evalLosses[i], 1e-5 * run.evalLosses[i]);
        }
      }
      assertEquals(best?.step ?? null, run.best);
      const { loss } = await evaluate(trained, [batchOf(run.eval)]);
      assertAlmostEquals(loss, run.finalEvalLoss, 1e-5 * loss);
      assertEquals(
        [...Deno.readDirSync(folder)].map(({ name }) => Number(name.split("-")[1])).sort((a, b) =>
          a - b
        ),
        run.checkpoints,
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("a function of the epoch and an iterable have windows and epochs, too", async () => {
  const [run] = runs;
  const model = await loadAdapter(
    await goldenBase("llama", await testDevice("cpu")),
    `${golden}lora/basic`,
    { isTrainable: true },
  );
  const options = { learningRate: 1e-2, gradientAccumulation: 2, epochs: 3, weightDecay: 0.01 };
  const all = batches(run.train);
  async function* streamed() {
    for (const batch of all) yield await Promise.resolve(batch);
  }
  const losses = async (data: Parameters<typeof train>[1], more = {}) =>
    (await train(model, data, { ...options, ...more })).history.map(({ loss }) => loss);
  const expected = await losses(all);
  assertEquals(expected.length, 6);
  assertEquals(await losses(() => all), expected);
  assertEquals(await losses(() => streamed()), expected);
  assertEquals(await losses(streamed(), { epochs: undefined }), expected.slice(0, 2));
  const scheduled = await losses(() => all, { schedule: "linear" });
  scheduled.forEach((loss, i) => assertAlmostEquals(loss, run.steps[i].loss, 1e-5 * loss));
  const error = await losses(streamed()).catch((error) => error);
  assert(error.message.includes("gone through again"), String(error));
});
