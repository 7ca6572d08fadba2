/**
 * Benchmarks of single operations on WebGPU: `deno bench` times them, and a table at the end gives GFLOPS, GB/s and the share of what the adapter was
 * measured to do at most. The kernels are those of GPUs; with `-- --software`, those that suit a processor.
 *
 * @module
 */
import { createSizes } from "../kernels/sizes.ts";
import { storageBytes } from "../kernels/wgsl.ts";
import type { Kernel } from "../kernels/kernel.ts";
import { operationOf } from "../lib/ops/mod.ts";
import { createGraph, type Graph, type Value } from "../lib/ops/value.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { kernelOf } from "../tests/kernels/fused-kernel.ts";
import { type Gpu, openGpu } from "../tests/kernels/run-kernel.ts";

/** One operation to measure. */
export interface KernelCase {
  /** What it is, with its sizes. */
  readonly name: string;
  /** Makes the operation; the node's own inputs are bound to buffers. */
  readonly build: (graph: Graph) => Value;
  /** Limit that the operation should come near to; by default the one that it takes longer to reach. */
  readonly limit?: "arithmetic" | "memory";
  /** Bytes read and written, where these are not all inputs and the output. */
  readonly bytes?: number;
  /** Contents of integer inputs by number; ones by default. */
  readonly integers?: Readonly<Record<number, (index: number) => number>>;
}

/** What an adapter does at most. */
export interface Peak {
  /** Floating-point operations per second in units of 10⁹. */
  readonly gflops: number;
  /** Bytes read and written per second in units of 10⁹. */
  readonly gigabytes: number;
}

/** Seconds of one run, as the shortest of several rounds. */
async function secondsOf(go: (times: number) => Promise<void>): Promise<number> {
  await go(1);
  let times = 1;
  for (;;) {
    const start = performance.now();
    await go(times);
    const passed = performance.now() - start;
    if (passed > 30 || times >= 1024) break;
    times *= 4;
  }
  let best = Infinity;
  for (let round = 0; round < 3; round++) {
    const start = performance.now();
    await go(times);
    best = Math.min(best, (performance.now() - start) / times / 1000);
  }
  return best;
}

/** Measures what the adapter does at most: products and sums of private numbers, and a copy of more than caches hold. */
export async function measurePeak(gpu: Gpu): Promise<Peak> {
  const chains = 4,
    unrolled = 32,
    steps = 512,
    invocations = gpu.features.software ? 2 ** 10 : 2 ** 18;
  const names = Array.from({ length: chains }, (_, i) => `x${i}`);
  const arithmetic: Kernel = {
    variant: "peak",
    dispatches: [{
      source: `@group(0) @binding(0) var<storage, read_write> output: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let f = 1.0 - f32(id.x) * 1e-9;
  ${names.map((n, i) => `var ${n} = vec4<f32>(f32(id.x + ${i}u));`).join(" ")}
  for (var i = 0u; i < ${steps}u; i++) {
    ${names.map((n) => `${n} = ${n} * f + f;`).join(" ").concat("\n    ").repeat(unrolled)}
  }
  let all = ${names.join(" + ")};
  output[id.x] = all.x + all.y + all.z + all.w;
}
`,
      sizes: createSizes(),
      bindings: ["output"],
      workgroups: [invocations / 64, 1, 1],
    }],
  };
  const output = gpu.buffer(invocations * 4);
  const flops = await secondsOf(await gpu.prepare(arithmetic, { inputs: [], output }));
  output.destroy();
  const bytes = 64 * 2 ** 20;
  const inputs = [gpu.buffer(bytes)], copy = gpu.buffer(bytes);
  const seconds = await secondsOf(
    await gpu.prepare({
      variant: "peak",
      dispatches: [{
        source: `@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = id.x * 512u + lane;
  for (var i = first; i < first + 512u; i += 64u) { output[i] = input[i]; }
}
`,
        sizes: createSizes(),
        bindings: [0, "output"],
        workgroups: [bytes / 16 / 512, 1, 1],
      }],
    }, { inputs, output: copy }),
  );
  [...inputs, copy].forEach((b) => b.destroy());
  return {
    gflops: invocations * steps * unrolled * chains * 8 / flops / 1e9,
    gigabytes: 2 * bytes / seconds / 1e9,
  };
}

/** Registers a benchmark per case, and a table of all of them at the end of the process. */
export function benchKernels(family: string, cases: readonly KernelCase[]): void {
  const gpu = openGpu({ software: Deno.args.includes("--software") });
  let peak: Promise<Peak> | undefined;
  let title = family;
  const rows: string[][] = [];
  for (const test of cases) {
    Deno.bench({
      name: test.name,
      group: family,
      n: 3,
      warmup: 1,
      fn: async (bench) => {
        const opened = await gpu, most = await (peak ??= measurePeak(opened));
        title = `${family}: peak ${most.gflops.toFixed(1)} GFLOPS, ${
          most.gigabytes.toFixed(1)
        } GB/s`;
        const node = test.build(createGraph());
        const { flops } = operationOf(node);
        const { kernel, inputs: read } = kernelOf(node, opened.features);
        const size = (v: Value) => storageBytes(v.dtype, sizeOf(v.shape));
        const inputs = read.map((x, i) => opened.buffer(contents(x, test.integers?.[i])));
        const output = opened.buffer(size(node));
        const go = await opened.prepare(kernel, { inputs, output });
        await go();
        // Runtimes look at the queue every few milliseconds only, which is in these times; those of the table are of many runs.
        bench.start();
        await go();
        bench.end();
        if (!rows.some((r) => r[0] === test.name)) {
          const seconds = await secondsOf(go);
          const gflops = flops(node) / seconds / 1e9;
          const bytes = test.bytes ?? read.reduce((n, x) => n + size(x), size(node));
          const gigabytes = bytes / seconds / 1e9;
          const shares = { arithmetic: gflops / most.gflops, memory: gigabytes / most.gigabytes };
          const limit = test.limit ?? (shares.arithmetic > shares.memory ? "arithmetic" : "memory");
          rows.push([
            test.name,
            kernel.variant,
            `${(seconds * 1000).toFixed(3)} ms`,
            `${gflops.toFixed(2)} GFLOPS`,
            `${gigabytes.toFixed(2)} GB/s`,
            `${(100 * shares[limit]).toFixed(0)} % of ${limit}`,
          ]);
        }
        for (const b of [...inputs, output]) b.destroy();
      },
    });
  }
  globalThis.addEventListener("unload", () => {
    const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((r) => r[i].length)));
    console.log(`\n${title}`);
    for (const row of rows) console.log(row.map((c, i) => c.padEnd(widths[i])).join("  "));
  });
}

/** Numbers between −1 and 1 (small integers, or those of `integer`) in the storage form of a value. */
function contents(value: Value, integer?: (index: number) => number): ArrayBufferView {
  const size = sizeOf(value.shape);
  if (value.dtype === "f32") return Float32Array.from({ length: size }, (_, i) => pseudo(i));
  if (value.dtype === "i32") {
    return Int32Array.from({ length: size }, (_, i) => integer ? integer(i) : 1);
  }
  if (value.dtype === "f16" || value.dtype === "bf16") {
    // The upper half of such a number is a bf16, and small enough to be an f16 as well.
    return Uint16Array.from({ length: size }, (_, i) => 0x3000 + (i * 7919) % 0x0c00);
  }
  return Uint8Array.from({ length: storageBytes(value.dtype, size) }, (_, i) => (i * 7919) % 251);
}

function pseudo(i: number): number {
  return ((Math.imul(i + 1, 0x9e3779b1) >>> 8) / 2 ** 23) - 1;
}
