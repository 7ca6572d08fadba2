/**
 * A training step of each method that adapts layers, at SmolLM2-135M's shape on the CPU, beside
 * Python PEFT's on torch in the same run: `deno bench -A bench/methods.bench.ts`. After `--`, names
 * choose among the methods, and `--write` puts the table into docs/methods.md. Each side is a process of its own, so that
 * its memory is known; `GRAFT_ORACLE_PYTHON` names a Python that has torch, transformers and peft.
 *
 * @module
 */
import { createInterface, type Interface } from "node:readline";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { beside, runChild } from "./peers/child.ts";
import { median } from "./peers/jobs.ts";
import { METHOD_SETTINGS, settingsOf } from "./method-settings.ts";
import { writeTable } from "./write-table.ts";

const THREADS = navigator.hardwareConcurrency, BATCH = 2, LENGTH = 128;
const STEPS = 3, WARMUP = 1;
const PYTHON = Deno.env.get("GRAFT_ORACLE_PYTHON") ?? "python3";
const chosen = Deno.args.filter((arg) => !arg.startsWith("--"));

/** What a side says of itself and of its last step. */
interface Said {
  readonly parameters: number;
  readonly loss: number;
  readonly peakRssMb?: number;
}

/** One side while it takes steps. */
interface Peer {
  readonly said: Said;
  readonly seconds: readonly number[];
  step(): Promise<void>;
  close(): void;
}

type Child = ChildProcessByStdio<Writable, Readable, null>;

async function openPeer(program: string, args: readonly string[]): Promise<Peer> {
  const child: Child = spawn(program, [...args], { stdio: ["pipe", "pipe", "inherit"] });
  const lines: Interface = createInterface({ input: child.stdout });
  const answers = lines[Symbol.asyncIterator]();
  const read = async () => {
    const { value, done } = await answers.next();
    if (done) throw new Error(`${program} ${args[0]} ended before its time.`);
    return JSON.parse(value) as Said;
  };
  let said = await read();
  const seconds: number[] = [];
  return {
    get said() {
      return said;
    },
    seconds,
    async step() {
      const start = performance.now();
      child.stdin.write("step\n");
      said = { ...said, ...await read() };
      seconds.push((performance.now() - start) / 1000);
    },
    close() {
      child.stdin.end();
      child.kill();
    },
  };
}

/** A folder with a model of random weights, made once. */
let model: Promise<string> | undefined;
let folder: string | undefined;

async function makeModel(): Promise<string> {
  folder = await Deno.makeTempDir({ prefix: "graft-methods-" });
  await runChild(PYTHON, [beside("torch_peft.py"), "--one", "save-model", "--model", folder]);
  return folder;
}

/** How a side is started: the program, and what comes before the folder of the model. */
const SIDES: Readonly<Record<string, readonly string[]>> = {
  Graft: [Deno.execPath(), "run", "-A", "--no-check", "-q", beside("method-steps.ts")],
  PEFT: [PYTHON, beside("method_steps.py")],
};

const results = new Map<string, Map<string, Peer>>();
/** One at a time has memory and processors for itself. */
let running: Peer | undefined;

for (const name of Object.keys(METHOD_SETTINGS)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  results.set(name, new Map());
  for (const [side, [program, ...args]] of Object.entries(SIDES)) {
    Deno.bench({
      name: `${name}, ${side}`,
      group: name,
      baseline: side === "PEFT",
      n: STEPS,
      warmup: WARMUP,
      fn: async (bench) => {
        const path = await (model ??= makeModel()), peers = results.get(name)!;
        if (!peers.has(side)) {
          const sizes = [THREADS, BATCH, LENGTH].map(String);
          const rest = [...args, path, JSON.stringify(settingsOf(name)), ...sizes];
          running?.close();
          peers.set(side, running = await openPeer(program, rest));
        }
        bench.start();
        await peers.get(side)!.step();
        bench.end();
      },
    });
  }
}

function row(name: string, peers: ReadonlyMap<string, Peer>): readonly string[] {
  const [ours, theirs] = ["Graft", "PEFT"].map((side) => peers.get(side)!);
  const time = ({ seconds }: Peer) => median(seconds.slice(WARMUP));
  const mebibytes = ({ said }: Peer) => said.peakRssMb?.toFixed(0) ?? "";
  return [
    name,
    ours.said.parameters.toLocaleString("en"),
    time(ours).toFixed(2),
    time(theirs).toFixed(2),
    (time(theirs) / time(ours)).toFixed(2),
    mebibytes(ours),
    mebibytes(theirs),
  ];
}

globalThis.addEventListener("unload", () => {
  running?.close();
  if (folder) Deno.removeSync(folder, { recursive: true });
  const whole = (peers: ReadonlyMap<string, Peer>) =>
    peers.size === 2 && [...peers.values()].every(({ seconds }) => seconds.length > WARMUP);
  const rows = [...results].filter(([, peers]) => whole(peers)).map(([n, p]) => row(n, p));
  const head = ["Method", "Trained", "Step, s", "PEFT's", "Ratio", "Peak, MiB", "PEFT's"];
  writeTable("steps", head, rows);
});
