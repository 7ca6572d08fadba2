/**
 * Runs mutations in processes of their own, with a watchdog.
 *
 * @module
 */
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { KINDS } from "./kinds.ts";
import type { Outcome, Task } from "./worker.ts";

/** What a mutation may take at most. */
export const LIMITS = { milliseconds: 2000, bytes: 512 * 2 ** 20 } as const;
/** Mutations of one process; the memory of a long one would not tell much. */
const CHUNK = 400;
/** What a process may begin with before its first mutation. */
const START = 60_000;

/** What to run. */
export interface FuzzOptions {
  readonly seed: number;
  readonly indices: readonly number[];
  readonly kinds?: readonly string[];
  readonly processes?: number;
  /** Milliseconds without a sign of life after which a process is ended. */
  readonly patience?: number;
  /** The module that has the kinds. */
  readonly module?: string;
}

/** How each mutation ended, in their order. Those that take too much are run once more, alone. */
export async function fuzz(options: FuzzOptions): Promise<Outcome[]> {
  const { indices, kinds = Object.keys(KINDS), processes = 2, patience = 10_000 } = options;
  const { seed, module = new URL("kinds.ts", import.meta.url).href } = options;
  const run = (some: readonly number[]) =>
    outcomesOf({ module, seed, kinds, indices: some }, patience);
  const chunks: number[][] = [];
  for (let at = 0; at < indices.length; at += CHUNK) chunks.push(indices.slice(at, at + CHUNK));
  const outcomes: Outcome[] = [];
  const work = async () => {
    for (let chunk = chunks.shift(); chunk; chunk = chunks.shift()) {
      for await (const outcome of run(chunk)) outcomes.push(outcome);
    }
  };
  await Promise.all(Array.from({ length: processes }, work));
  for (const [i, first] of outcomes.entries()) {
    if (first.failed || !isTooMuch(first)) continue;
    for await (const alone of run([first.index])) outcomes[i] = alone;
    const again = outcomes[i];
    if (again.failed || !isTooMuch(again)) continue;
    outcomes[i] = { ...again, failed: true, end: `${again.end}, but took too much` };
  }
  return outcomes.sort((a, b) => a.index - b.index);
}

function isTooMuch({ milliseconds, bytes }: Outcome): boolean {
  return milliseconds > LIMITS.milliseconds || bytes > LIMITS.bytes;
}

/** The outcomes of a task, whose process starts again after one that it does not survive. */
async function* outcomesOf(task: Task, patience: number): AsyncGenerator<Outcome> {
  let left = task.indices;
  while (left.length) {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", new URL("worker.ts", import.meta.url).href],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(JSON.stringify({ ...task, indices: left })));
    await writer.close();
    const stderr = new Response(child.stderr).text();
    let running: number | undefined, since = performance.now();
    const kill = () => child.kill("SIGKILL");
    let watchdog = setTimeout(kill, START);
    const lines = createInterface({ input: Readable.fromWeb(child.stdout as never) });
    for await (const line of lines) {
      clearTimeout(watchdog);
      watchdog = setTimeout(kill, patience);
      const told = JSON.parse(line) as Outcome | { readonly index: number };
      since = performance.now();
      if (!("end" in told)) running = told.index;
      else {
        running = undefined;
        left = left.slice(1);
        yield told;
      }
    }
    clearTimeout(watchdog);
    await child.status;
    if (left.length === 0) break;
    const said = (await stderr).trim().split("\n").slice(0, 12).join("\n");
    if (running === undefined) throw new Error(`A process ended between mutations: ${said}`);
    const milliseconds = performance.now() - since;
    yield {
      index: running,
      kind: task.kinds[running % task.kinds.length],
      end: milliseconds >= patience ? "does not end" : `ends the process: ${said.slice(0, 400)}`,
      failed: true,
      milliseconds,
      bytes: 0,
    };
    left = left.slice(1);
  }
}
