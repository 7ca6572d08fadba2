/**
 * The child process of the fuzzer: some mutations one after the other, a line of JSON for each.
 *
 * @module
 */
import { GraftError } from "../../lib/errors.ts";
import type { Kind, Subject } from "./kinds.ts";
import { createRandom } from "./mutate.ts";

/** Which mutations: those of `index`, and every so many after it. */
export interface Task {
  /** The module that has the kinds. */
  readonly module: string;
  readonly seed: number;
  readonly kinds: readonly string[];
  readonly indices: readonly number[];
}

/** How one mutation ended. */
export interface Outcome {
  readonly index: number;
  readonly kind: string;
  /** Code of the error, `load`, or what is wrong. */
  readonly end: string;
  readonly failed: boolean;
  readonly milliseconds: number;
  /** By how much memory grew at its most; 0 where the system does not tell. */
  readonly bytes: number;
}

/** A field of `/proc/self/status` in bytes; 0 on systems without it. */
function memory(field: "VmHWM" | "VmRSS"): number {
  try {
    const [, kilobytes = 0] = Deno.readTextFileSync("/proc/self/status")
      .match(new RegExp(`${field}:\\s+(\\d+)`)) ?? [];
    return Number(kilobytes) * 1024;
  } catch {
    return 0;
  }
}

function forgetPeak(): void {
  try {
    Deno.writeTextFileSync("/proc/self/clear_refs", "5");
  } catch { /* the peak is that of the process then */ }
}

function tell(value: unknown): void {
  const bytes = new TextEncoder().encode(`${JSON.stringify(value)}\n`);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}

/** A typed error of the library, whose code is its end, or what must not happen. */
function endOf(error: unknown): Pick<Outcome, "end" | "failed"> {
  const { code, details } = error as { code?: unknown; details?: unknown };
  const typed = error instanceof GraftError || (error as Error)?.name === "ArgumentTypeError";
  if (typed && typeof code === "string" && typeof details === "object") {
    return { end: code, failed: false };
  }
  const text = error instanceof Error ? error.stack ?? error.message : String(error);
  return { end: text.slice(0, 1200), failed: true };
}

async function main({ module, seed, kinds, indices }: Task): Promise<void> {
  const { KINDS } = await import(module) as { KINDS: Readonly<Record<string, Kind>> };
  const subjects = new Map<Kind, Subject>();
  for (const index of indices) {
    const name = kinds[index % kinds.length], kind = KINDS[name];
    if (!subjects.has(kind)) subjects.set(kind, await kind());
    const folder = await Deno.makeTempDir({ prefix: "graft-fuzz-" });
    tell({ index });
    forgetPeak();
    const before = memory("VmRSS"), start = performance.now();
    let end: Pick<Outcome, "end" | "failed"> = { end: "load", failed: false };
    try {
      await subjects.get(kind)!(createRandom(seed, index), folder);
    } catch (error) {
      end = endOf(error);
    }
    const milliseconds = performance.now() - start;
    tell({ index, kind: name, ...end, milliseconds, bytes: memory("VmHWM") - before });
    await Deno.remove(folder, { recursive: true }).catch(() => {});
  }
}

if (import.meta.main) {
  await main(await new Response(Deno.stdin.readable).json());
  Deno.exit(0);
}
