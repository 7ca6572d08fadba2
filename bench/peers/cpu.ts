/**
 * Graft's CPU device against PyTorch, PEFT and transformers, on SmolLM2-135M's shape.
 *
 * @module
 */
import { smolLm2 } from "../datasets.ts";
import { beside, runChild, runDeno } from "./child.ts";
import { type Measured, median } from "./jobs.ts";
import { printHeading, printTable, say, verdict } from "./report.ts";

/** How to compare. */
export interface CpuOptions {
  /** Python with torch, transformers, peft and gguf. */
  readonly python: string;
  /** How often each side runs, in turns. */
  readonly repetitions: number;
  /** Threads of each side. */
  readonly threads: number;
  /** Training steps that are timed in each run. */
  readonly steps: number;
  /** Whether a job is wanted. */
  readonly wants: (job: string) => boolean;
}

/** Measurements by who made them; one entry per repetition. */
type Results = Map<string, Measured[]>;

/** The jobs, as names of what each side runs in one repetition, in this order. */
const ROUNDS: Readonly<Record<string, readonly string[]>> = {
  train: ["graft train", "torch train"],
  decode: ["graft decode", "torch decode", "graft decode 4-bit"],
  "first-token": ["graft first-token", "torch first-token"],
  "first-token-gguf": ["graft first-token 4-bit", "torch first-token-gguf"],
};

/** The names of the jobs. */
export const CPU_JOBS: readonly string[] = Object.keys(ROUNDS);

type Figure = "tokensPerSecond" | "seconds" | "peakRssMb";

/** One line of the report: who is compared with whom, in which figure. */
interface Row {
  readonly job: string;
  readonly label: string;
  readonly ours: string;
  readonly theirs: string;
  readonly figure: Figure;
  readonly target: number;
}

const rowsOf = (
  job: string,
  label: string,
  [ours, theirs]: readonly [string, string],
  [figure, target]: readonly [Figure, number],
): readonly Row[] => [
  { job, label, ours, theirs, figure, target },
  { job, label, ours, theirs, figure: "peakRssMb", target: 1 },
];

const ROWS: readonly Row[] = [
  ...rowsOf("train", "LoRA training, r 8, all-linear, batch 4×128, f32", [
    "graft train",
    "torch train",
  ], ["tokensPerSecond", 1.2]),
  ...rowsOf("decode", "decoding, batch 1, f32", ["graft decode", "torch decode"], [
    "tokensPerSecond",
    2,
  ]),
  ...rowsOf("decode", "decoding, batch 1, 4-bit weights against f32", [
    "graft decode 4-bit",
    "torch decode",
  ], ["tokensPerSecond", 4]),
  ...rowsOf("first-token", "start to first token, f32 safetensors", [
    "graft first-token",
    "torch first-token",
  ], ["seconds", 1]),
  ...rowsOf("first-token-gguf", "start to first token, 4-bit GGUF", [
    "graft first-token 4-bit",
    "torch first-token-gguf",
  ], ["seconds", 1]),
];

const UNITS = { tokensPerSecond: "tokens/s", seconds: "s", peakRssMb: "MiB at peak" } as const;

/** Why a Python cannot be compared with, or nothing where it can. */
async function whyNot(python: string): Promise<string | undefined> {
  try {
    await runChild(python, ["-c", "import gguf, peft, torch, transformers"]);
    return undefined;
  } catch (error) {
    return (error as Error).message.split("\n").at(-1);
  }
}

/**
 * Measures both sides in turns and prints the table. Says so where there is no Python to compare with.
 *
 * @returns whether all that was measured reached its target.
 */
export async function compareCpu(options: CpuOptions): Promise<boolean> {
  printHeading(`CPU, ${options.threads} threads: Graft and PyTorch`);
  const problem = await whyNot(options.python);
  if (problem) {
    console.log(
      `SKIPPED: ${options.python} cannot import torch, transformers, peft and gguf (${problem}).\n` +
        "Name a Python that can in GRAFT_ORACLE_PYTHON.",
    );
    return true;
  }
  const folder = await Deno.makeTempDir({ prefix: "graft-peers-" });
  try {
    say("making a model of random weights");
    const script = beside("torch_peft.py");
    await runChild(options.python, [script, "--one", "save-model", "--model", folder]);
    const models = { folder, gguf: await smolLm2() };
    const results: Results = new Map();
    for (const job of CPU_JOBS.filter(options.wants)) {
      for (let i = 0; i < options.repetitions; i++) {
        for (const name of ROUNDS[job]) {
          say(`${name}, ${i + 1} of ${options.repetitions}`);
          const measured = await measure(name, models, options);
          results.set(name, [...results.get(name) ?? [], measured]);
        }
      }
    }
    return report(results, options);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Runs one measurement in a process of its own. */
async function measure(
  name: string,
  models: { readonly folder: string; readonly gguf: string },
  options: CpuOptions,
): Promise<Measured> {
  const [side, measurement, weights] = name.split(" ");
  const common = ["--threads", String(options.threads), "--steps", String(options.steps)];
  const started = ["--started", String(Date.now() / 1000)];
  let lines: readonly string[];
  if (side === "graft") {
    const model = weights === "4-bit" ? models.gguf : models.folder;
    lines = await runDeno("graft-cpu.ts", [measurement, "--model", model, ...common, ...started]);
  } else {
    const threads = String(options.threads);
    const env = {
      OMP_NUM_THREADS: threads,
      MKL_NUM_THREADS: threads,
      HF_HUB_OFFLINE: "1",
      TRANSFORMERS_OFFLINE: "1",
    };
    const which = ["--one", measurement, "--model", models.folder, "--gguf", models.gguf];
    const args = [beside("torch_peft.py"), ...which, ...common, ...started];
    lines = await runChild(options.python, args, { env });
  }
  const measured = JSON.parse(lines.at(-1)!) as Measured;
  say(
    Object.entries(measured).filter(([, value]) => typeof value === "number")
      .map(([key, value]) => `${key} ${(value as number).toPrecision(4)}`).join(", "),
  );
  return measured;
}

/** The best that a run of a name reached. */
function bestOf(results: readonly Measured[], figure: Figure): number {
  return figure === "tokensPerSecond"
    ? Math.max(...results.map((measured) => measured.bestTokensPerSecond ?? NaN))
    : Math.min(...results.map((measured) => measured[figure] ?? NaN));
}

function report(results: Results, options: CpuOptions): boolean {
  const versions = Object.assign({}, ...[...results.values()].flat().map((m) => m.versions ?? {}));
  console.log(Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", "));
  console.log(`Medians of ${options.repetitions} runs each, in turns; a ratio above 1 is ours.\n`);
  let met = true;
  const lines = ROWS.filter((row) => options.wants(row.job)).map((row) => {
    const { figure } = row;
    const ofOurs = results.get(row.ours)!, ofTheirs = results.get(row.theirs)!;
    const middle = (all: readonly Measured[]) => median(all.map((m) => m[figure] ?? NaN));
    const ratioOf = (ours: number, theirs: number) =>
      figure === "tokensPerSecond" ? ours / theirs : theirs / ours;
    const ours = middle(ofOurs), theirs = middle(ofTheirs);
    // Memory is not known on every system.
    if (Number.isNaN(ours / theirs)) return [row.label, UNITS[figure], "", "", "", "unknown", ""];
    const [ratio, reached] = verdict(ratioOf(ours, theirs), row.target);
    met &&= reached === "met";
    const show = (x: number) => x.toFixed(figure === "seconds" ? 2 : x < 1000 ? 1 : 0);
    const best = ratioOf(bestOf(ofOurs, figure), bestOf(ofTheirs, figure)).toFixed(2);
    return [row.label, UNITS[figure], show(ours), show(theirs), ratio, reached, best];
  });
  printTable([["", "", "graft", "torch", "ratio (target)", "", "of the best"], ...lines]);
  return met;
}
