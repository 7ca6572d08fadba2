/**
 * Training steps of one method at SmolLM2-135M's shape, one for each line that comes in, as
 * method_steps.py takes them on torch. A line in JSON answers each, and one comes before the first.
 *
 *     deno run -A bench/peers/method-steps.ts MODEL CONFIG THREADS BATCH LENGTH
 *
 * @module
 */
import process from "node:process";
import { createInterface } from "node:readline";
import {
  fromPeftJson,
  getNbTrainableParameters,
  getPeftModel,
  loadModel,
  train,
} from "../../mod.ts";
import { VOCABULARY } from "./jobs.ts";

const [folder, json, ...numbers] = Deno.args;
const [threads, batch, length] = numbers.map(Number);

/** The largest resident size so far, in MiB, where the system tells. */
async function peakRssMb(): Promise<number | undefined> {
  const status = await Deno.readTextFile("/proc/self/status").catch(() => "");
  const kib = status.match(/^VmHWM:\s*(\d+)/m)?.[1];
  return kib === undefined ? undefined : Number(kib) / 1024;
}

const say = (line: object) => console.log(JSON.stringify(line));

async function* batches() {
  let next = 3;
  for await (const _ of createInterface({ input: process.stdin })) {
    yield {
      inputIds: Array.from(
        { length: batch },
        () => Array.from({ length }, () => (next = next * 7919 % 49139) % VOCABULARY),
      ),
    };
  }
}

const base = await loadModel(folder, { device: "cpu", threads });
const model = getPeftModel(base, fromPeftJson(JSON.parse(json)), { seed: 0 });
say({ parameters: getNbTrainableParameters(model).trainable });
await train(model, batches(), {
  learningRate: 1e-4,
  onStep: async ({ loss }) => say({ loss, peakRssMb: await peakRssMb() }),
});
