/**
 * Graft's WebGPU device against other libraries, all in this Deno and on the same adapter.
 *
 * @module
 */
import { requestAdapter } from "../../lib/device/webgpu/backends.ts";
import { runDeno } from "./child.ts";
import { median } from "./jobs.ts";
import { writeOnnxModels } from "./onnx-models.ts";
import { printHeading, printTable, say, verdict } from "./report.ts";
import { flopsOf, MATMULS, MLP, outputPath, type Timings } from "./workload.ts";

/** How to compare. */
export interface WebGpuOptions {
  /** How often each library's process runs, in turns. */
  readonly repetitions: number;
  /** Runs of each measurement that are timed in a process. */
  readonly runs: number;
  /** The libraries to compare with; all of them by default. */
  readonly peers?: readonly string[];
}

const OURS = "graft";

/** The libraries that are compared with. */
export const WEBGPU_PEERS: readonly string[] = ["tfjs", "onnxruntime-web", "jax-js"];

const MEASUREMENTS: readonly string[] = [...MATMULS.map((work) => work.name), MLP];

const TARGET = 1.5;

/** Largest difference from Graft's output that is put down to rounding, as a share of the largest element. */
const TOLERANCE = { matmul: 1e-5, training: 1e-3 } as const;

/**
 * Measures all libraries in turns, checks that their outputs agree, and prints the table.
 *
 * @returns whether every output agreed and every target was reached.
 */
export async function compareWebGpu(options: WebGpuOptions): Promise<boolean> {
  const adapter = await requestAdapter();
  if (!adapter) throw new Error("There is no WebGPU adapter; tests/tasks/webgpu.ts installs one.");
  const { description, device, vendor } = adapter.info;
  printHeading(`WebGPU on ${description || device || vendor}, f32`);
  const folder = await Deno.makeTempDir({ prefix: "graft-peers-" });
  try {
    await writeOnnxModels(folder);
    const peers = options.peers ?? WEBGPU_PEERS;
    const timings = new Map<string, Timings[]>();
    const failures = new Set<string>();
    for (let i = 0; i < options.repetitions; i++) {
      for (const name of [OURS, ...peers].filter((name) => !failures.has(name))) {
        say(`${name}, ${i + 1} of ${options.repetitions}`);
        try {
          const module = name === OURS ? "graft-webgpu.ts" : `web/${name}.ts`;
          await runDeno(module, [folder, String(options.runs)]);
          const text = await Deno.readTextFile(`${folder}/${name}.json`);
          timings.set(name, [...timings.get(name) ?? [], JSON.parse(text) as Timings]);
          const wrong = name === OURS ? [] : await differences(folder, name);
          if (wrong.length > 0) {
            throw new Error(`${name} gives other outputs: ${wrong.join("; ")}.`);
          }
        } catch (error) {
          failures.add(name);
          timings.delete(name);
          console.log(`FAILED ${(error as Error).message}`);
          if (name === OURS) return false;
        }
      }
    }
    return report(timings, options) && failures.size === 0;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Where the outputs that a library left differ from ours. */
async function differences(folder: string, peer: string): Promise<readonly string[]> {
  const wrong: string[] = [];
  for (const name of MEASUREMENTS) {
    const read = async (who: string) =>
      new Float32Array((await Deno.readFile(outputPath(folder, who, name))).buffer);
    const ours = await read(OURS), theirs = await read(peer);
    // A sum of all squares is not finite where an element is not, and nothing is compared where all are 0.
    const energy = ours.reduce((sum, x) => sum + x * x, 0);
    const largest = ours.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    const off = ours.reduce((max, x, i) => Math.max(max, Math.abs(x - theirs[i])), 0) / largest;
    const tolerance = name === MLP ? TOLERANCE.training : TOLERANCE.matmul;
    if (!(Number.isFinite(energy) && theirs.length === ours.length && off <= tolerance)) {
      wrong.push(`${name} by ${off.toExponential(1)} of the largest element`);
    }
  }
  return wrong;
}

function report(timings: ReadonlyMap<string, readonly Timings[]>, options: WebGpuOptions): boolean {
  const names = [...timings.keys()];
  console.log(
    names.filter((name) => name !== OURS)
      .map((name) =>
        Object.entries(timings.get(name)![0].versions).map((pair) => pair.join(" ")).join(", ")
      )
      .join(", "),
  );
  console.log(
    `Milliseconds (GFLOPS), medians of ${options.repetitions} processes × ${options.runs} runs, in turns. ` +
      "Operands lie on the device, the result (of a step: the loss) is read.\n",
  );
  let met = true;
  const rows = MEASUREMENTS.map((measurement) => {
    const time = (name: string) =>
      median(timings.get(name)!.map((t) => median(t.milliseconds[measurement])));
    const show = (name: string) => {
      const ms = time(name);
      return `${ms.toFixed(1)} (${(flopsOf(measurement) / ms / 1e6).toFixed(1)})`;
    };
    const best = (name: string) =>
      Math.min(...timings.get(name)!.flatMap((t) => t.milliseconds[measurement]));
    const ratioBy = (figure: (name: string) => number) =>
      Math.min(...names.filter((name) => name !== OURS).map(figure)) / figure(OURS);
    const [ratio, reached] = verdict(ratioBy(time), TARGET);
    met &&= reached === "met";
    return [measurement, ...names.map(show), ratio, reached, ratioBy(best).toFixed(2)];
  });
  printTable([["", ...names, "to the fastest (target)", "", "of the best"], ...rows]);
  return met;
}
