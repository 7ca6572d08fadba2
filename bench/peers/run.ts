/**
 * The same jobs in Graft and in other libraries, on this machine and in one run: `deno task peers`.
 *
 * Every measurement is a process of its own; the libraries take turns, with equal numbers of threads, and medians are compared. On the
 * CPU the peer is Python: PEFT on torch, and transformers (the environment variable `GRAFT_ORACLE_PYTHON` names a Python that has them).
 * On WebGPU the peers are tfjs, onnxruntime-web and jax-js, whose outputs are checked against ours.
 *
 * @module
 */
import { cpus, totalmem } from "node:os";
import { parseArgs } from "node:util";
import config from "../../deno.json" with { type: "json" };
import { compareCpu, CPU_JOBS } from "./cpu.ts";
import { compareWebGpu, WEBGPU_PEERS } from "./webgpu.ts";

const HELP = `Compares Graft with other libraries in one run.

    deno task peers [options]

--only NAME        what to compare, may be given several times: cpu, webgpu;
                   of the CPU's jobs: ${CPU_JOBS.join(", ")};
                   of WebGPU's libraries: ${WEBGPU_PEERS.join(", ")}
--repetitions N    processes per measurement and library, in turns (3)
--threads N        threads of each side on the CPU (${navigator.hardwareConcurrency})
--steps N          training steps that are timed in each process (4)
--runs N           runs that are timed in each WebGPU process (15)

The exit code is 1 where a target is missed, a library fails or outputs differ.`;

function main(): Promise<boolean> | boolean {
  const { values } = parseArgs({
    options: {
      only: { type: "string", multiple: true, default: [] },
      repetitions: { type: "string", default: "3" },
      threads: { type: "string", default: String(navigator.hardwareConcurrency) },
      steps: { type: "string", default: "4" },
      runs: { type: "string", default: "15" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) {
    console.log(HELP);
    return true;
  }
  const only = values.only.flatMap((name) => name.split(","));
  const known = ["cpu", "webgpu", ...CPU_JOBS, ...WEBGPU_PEERS];
  const unknown = only.filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new Error(`--only does not know ${unknown.join(", ")}; it knows ${known.join(", ")}.`);
  }
  const number = (name: "repetitions" | "threads" | "steps" | "runs") => {
    const value = Number(values[name]);
    if (!Number.isInteger(value) || value < 1) {
      throw new Error(`--${name} must be a whole number above 0, not ${values[name]}.`);
    }
    return value;
  };
  return compare(only, {
    repetitions: number("repetitions"),
    threads: number("threads"),
    steps: number("steps"),
    runs: number("runs"),
  });
}

async function compare(
  only: readonly string[],
  options: {
    readonly repetitions: number;
    readonly threads: number;
    readonly steps: number;
    readonly runs: number;
  },
): Promise<boolean> {
  const { os, arch } = Deno.build;
  const memory = (totalmem() / 2 ** 30).toFixed(0);
  console.log(`${cpus()[0]?.model ?? arch}, ${cpus().length} cores, ${memory} GiB, ${os} ${arch}`);
  console.log(`${config.name} ${config.version}, Deno ${Deno.version.deno}`);
  const [load] = Deno.loadavg();
  if (load > 0.5) {
    console.log(
      `The load before the start is ${
        load.toFixed(1)
      }: other work disturbs the medians; look at the best runs too.`,
    );
  }
  const all = only.length === 0;
  const jobs = CPU_JOBS.filter((job) => all || only.includes("cpu") || only.includes(job));
  const chosen = WEBGPU_PEERS.filter((peer) => only.includes(peer));
  let met = true;
  if (jobs.length > 0) {
    met = await compareCpu({
      ...options,
      python: Deno.env.get("GRAFT_ORACLE_PYTHON") ?? "python3",
      wants: (job) => jobs.includes(job),
    }) && met;
  }
  if (all || only.includes("webgpu") || chosen.length > 0) {
    met = await compareWebGpu({
      ...options,
      peers: chosen.length > 0 ? chosen : undefined,
    }) && met;
  }
  return met;
}

try {
  Deno.exitCode = await main() ? 0 : 1;
} catch (error) {
  console.error((error as Error).message);
  Deno.exitCode = 1;
}
