/**
 * Graft on the CPU, measured as torch_peft.py measures torch: one measurement per process, one JSON line at its end.
 *
 *     deno run -A bench/peers/graft-cpu.ts MEASUREMENT --model FOLDER|FILE.gguf --threads N --steps N --started SECONDS
 *
 * @module
 */
import { parseArgs } from "node:util";
import { generateStream, getPeftModel, loadModel, loraConfig, train } from "../../mod.ts";
import { LIMITS, type Measured, median, VOCABULARY } from "./jobs.ts";

const { values, positionals: [measurement] } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: "string" },
    threads: { type: "string" },
    steps: { type: "string", default: "4" },
    started: { type: "string" },
  },
});
const threads = Number(values.threads);
const { batch, length, promptTokens, newTokens, warmTokens } = LIMITS;

/** Token ids of a row, the same ones for the same number; special tokens left out, as in torch_peft.py. */
function row(number: number, length: number): number[] {
  const ids = new Uint32Array(length).map((_, i) => {
    const x = Math.imul(number * length + i + 1, 0x9e3779b1);
    return ((x ^ (x >>> 15)) >>> 0) % (VOCABULARY - 3) + 3;
  });
  return [...ids];
}

async function measureTrain(): Promise<Measured> {
  const base = await loadModel(values.model!, { device: "cpu", threads });
  const config = loraConfig({
    r: 8,
    loraAlpha: 16,
    targetModules: "all-linear",
    taskType: "CAUSAL_LM",
  });
  const steps = Number(values.steps) + 1;
  const batches = Array.from({ length: steps }, (_, step) => ({
    inputIds: Array.from({ length: batch }, (_, i) => row(step * batch + i, length)),
  }));
  const seconds: number[] = [];
  let last = performance.now();
  const { history } = await train(getPeftModel(base, config), batches, {
    learningRate: 1e-3,
    onStep() {
      const now = performance.now();
      seconds.push((now - last) / 1000);
      last = now;
    },
  });
  const [first, ...steady] = seconds;
  return {
    tokensPerSecond: batch * length / median(steady),
    bestTokensPerSecond: batch * length / Math.min(...steady),
    firstStepSeconds: first,
    loss: history.at(-1)!.loss,
  };
}

/** Seconds at which each new token was there, from the start of the process's own clock. */
async function greedy(
  model: Awaited<ReturnType<typeof loadModel>>,
  maxNewTokens: number,
): Promise<number[]> {
  const times: number[] = [];
  const options = { maxNewTokens, eosTokenId: [], doSample: false };
  for await (const _ of generateStream(model, row(0, promptTokens), options)) {
    times.push(performance.now() / 1000);
  }
  return times;
}

async function measureDecode(): Promise<Measured> {
  const model = await loadModel(values.model!, { device: "cpu", threads });
  const start = performance.now() / 1000;
  const times = await greedy(model, newTokens);
  const steps = times.slice(warmTokens).map((time, i) => time - times[warmTokens + i - 1]);
  return {
    tokensPerSecond: 1 / median(steps),
    bestTokensPerSecond: 1 / Math.min(...steps),
    prefillSeconds: times[0] - start,
  };
}

async function measureFirstToken(): Promise<Measured> {
  const model = await loadModel(values.model!, { device: "cpu", threads });
  await greedy(model, 1);
  return { seconds: Date.now() / 1000 - Number(values.started) };
}

/** The largest resident size that this process has had, in MiB, where the system tells. */
async function peakRssMb(): Promise<number | undefined> {
  const status = await Deno.readTextFile("/proc/self/status").catch(() => "");
  const kib = status.match(/^VmHWM:\s*(\d+)/m)?.[1];
  return kib === undefined ? undefined : Number(kib) / 1024;
}

const measured =
  await (measurement === "train"
    ? measureTrain()
    : measurement === "decode"
    ? measureDecode()
    : measureFirstToken());
console.log(JSON.stringify({ ...measured, peakRssMb: await peakRssMb() }));
Deno.exit(0);
