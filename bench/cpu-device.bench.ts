/**
 * Benchmarks of the CPU device at SmolLM2-135M's shape: a LoRA training step, decoding in f32, 8 and 4 bits, and a prompt. `deno bench` times them; a table at
 * the end gives rates, the share of what one large product or one long sum reaches on this machine, and what opening the session took.
 *
 * @module
 */
import { createCpuDevice } from "../lib/device/cpu/mod.ts";
import type { CpuDevice } from "../lib/device/cpu/mod.ts";
import { input } from "../lib/ops/input.ts";
import { matmul } from "../lib/ops/matmul.ts";
import { operationOf } from "../lib/ops/mod.ts";
import { sum } from "../lib/ops/reduce.ts";
import { trace } from "../lib/program/program.ts";
import { tensor } from "../lib/tensor/tensor.ts";
import {
  forwardProgram,
  type LlamaProgram,
  SMOLLM2_135M,
  trainingProgram,
} from "./synthetic-llama.ts";

interface Job {
  readonly name: string;
  readonly build: () => LlamaProgram;
  /** Tokens of one run. */
  readonly tokens: number;
  /** Whether arithmetic or reading the weights takes the time. */
  readonly limit: "arithmetic" | "memory";
  readonly n: number;
}

const decoding = (bits?: 4 | 8): Omit<Job, "name"> => ({
  build: () => forwardProgram(SMOLLM2_135M, { batch: 1, length: 1, capacity: 256, bits }),
  tokens: 1,
  limit: "memory",
  n: 30,
});

const JOBS: readonly Job[] = [
  {
    name: "LoRA training step, r 8, all-linear, 4×128",
    build: () => trainingProgram(SMOLLM2_135M, { batch: 4, length: 128, rank: 8 }),
    tokens: 512,
    limit: "arithmetic",
    n: 4,
  },
  { name: "decoding, f32", ...decoding() },
  { name: "decoding, 8 bits", ...decoding(8) },
  { name: "decoding, 4 bits", ...decoding(4) },
  {
    name: "prompt of 128 tokens, f32",
    build: () => forwardProgram(SMOLLM2_135M, { batch: 1, length: 128, capacity: 256 }),
    tokens: 128,
    limit: "arithmetic",
    n: 4,
  },
];

/** Milliseconds of the fastest of several runs. */
async function fastest(run: () => Promise<unknown>, times: number): Promise<number> {
  let best = Infinity;
  for (let i = 0; i < times; i++) {
    const start = performance.now();
    await run();
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

/** What the machine does at most: GFLOPS of one product, GB/s of one sum. */
async function measurePeak(device: CpuDevice): Promise<{ gflops: number; gigabytes: number }> {
  const n = 1024, long = 2 ** 26;
  const product = await device.compile(trace((g) => {
    const m = (name: string) => input(g, name, { shape: [n, n], dtype: "f32", role: "weight" });
    return { y: matmul(m("a"), m("b")) };
  }));
  const square = tensor(new Float32Array(n * n).fill(0.5), { shape: [n, n] });
  const total = await device.compile(trace((g) => ({
    y: sum(input(g, "x", { shape: [long], dtype: "f32", role: "weight" })),
  })));
  const x = tensor(new Float32Array(long).fill(0.5));
  return {
    gflops: 2 * n ** 3 / await fastest(() => product.run({ a: square, b: square }), 10) / 1e6,
    gigabytes: 4 * long / await fastest(() => total.run({ x }), 10) / 1e6,
  };
}

const opened = createCpuDevice();
let peak: ReturnType<typeof measurePeak> | undefined;
let title = "";
const rows: string[][] = [];

/** Bytes of what a run reads once: all weights, but one row of the embedding when that is not the head. */
function bytesRead({ inputs }: LlamaProgram): number {
  return Object.values(inputs).reduce((total, t) => {
    const size = t.shape.reduce((a, b) => a * b, 1);
    return total + size * (t.dtype === "u8" ? 1 : 4);
  }, 0);
}

for (const job of JOBS) {
  Deno.bench({
    name: job.name,
    group: job.limit,
    n: 1,
    warmup: 1,
    fn: async (bench) => {
      const device = await opened, most = await (peak ??= measurePeak(device));
      title = `${device.description}: peak ${most.gflops.toFixed(0)} GFLOPS, ${
        most.gigabytes.toFixed(1)
      } GB/s`;
      const llama = job.build();
      const start = performance.now();
      const executable = await device.compile(llama.program);
      using state = device.createState(llama.states);
      await executable.run(llama.inputs, { state });
      const opening = performance.now() - start;
      bench.start();
      const best = await fastest(() => executable.run(llama.inputs, { state }), job.n);
      bench.end();
      device.release(Object.values(llama.inputs));
      if (rows.some((r) => r[0] === job.name)) return;
      const flops = llama.program.nodes.reduce((f, v) => f + operationOf(v).flops(v), 0);
      const gflops = flops / best / 1e6, gigabytes = bytesRead(llama) / best / 1e6;
      rows.push([
        job.name,
        `${best.toFixed(1)} ms`,
        `${(1000 * job.tokens / best).toFixed(1)} tokens/s`,
        `${gflops.toFixed(0)} GFLOPS`,
        `${gigabytes.toFixed(1)} GB/s`,
        job.limit === "memory"
          ? `${(100 * gigabytes / most.gigabytes).toFixed(0)} % of memory`
          : `${(100 * gflops / most.gflops).toFixed(0)} % of arithmetic`,
        `${opening.toFixed(0)} ms to the end of the first run`,
      ]);
    },
  });
}

globalThis.addEventListener("unload", () => {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((r) => r[i].length)));
  console.log(`\n${title}`);
  for (const row of rows) console.log(row.map((c, i) => c.padEnd(widths[i])).join("  "));
});
