/**
 * Runs every test and every example in a doc comment, and ends with one line,
 * `N passed, N failed`, counted by the test runner. Arguments that name files or folders are run in
 * place of everything; the others go to `deno test`.
 *
 * @module
 */

import { stripVTControlCharacters } from "node:util";
import { cacheBytes, MACHINE_STATES, rememberTime, stateOf } from "./test-times.ts";
import { backendEnvironment, ensureAdapter, KERNEL_BOOK } from "./webgpu.ts";

/** Where tests and runnable examples are. */
const PLACES = ["mod.ts", "lib", "kernels", "README.md", "docs", "tests"];

/** What `deno test` says at its end, such as `ok | 5 passed (2 steps) | 0 failed | 1 ignored`. */
const SUMMARY = /^(?:ok|FAILED) \| (\d+) passed\b.*? \| (\d+) failed\b(?:.*? \| (\d+) ignored\b)?/;

const exists = (path: string): boolean => {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
};

/**
 * The options of every run. Types are the gate's to check (tasks/ok.ts): here one ill-typed file
 * would keep all the others from running.
 */
const OPTIONS = ["--allow-all", "--no-check", "--doc", "--parallel"];

/**
 * The software adapter's own settings, where nobody has made others: registers of four lanes, whose kernels compile in half the time of those of eight and run
 * the small sizes of tests as fast, and no passes that make them faster still.
 */
const ADAPTER_SETTINGS: Readonly<Record<string, string>> = {
  LP_NATIVE_VECTOR_WIDTH: "128",
  GALLIVM_PERF: "nopt",
};

/** Runs `deno test`, shows what it prints, and returns its exit code and its last summary line. */
async function runTests(args: readonly string[]): Promise<{ code: number; summary?: string }> {
  const book = await Deno.makeTempDir({ prefix: "graft-kernels-" });
  const env: Record<string, string> = {
    ...ADAPTER_SETTINGS,
    [KERNEL_BOOK]: book,
    ...Deno.env.toObject(),
    ...backendEnvironment(),
    ...(Deno.noColor || !Deno.stdout.isTerminal() ? { NO_COLOR: "1" } : {}),
  };
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", ...OPTIONS, ...args],
    env,
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const [shown, read] = child.stdout.tee();
  const [summary] = await Promise.all([
    lastSummary(read),
    shown.pipeTo(Deno.stdout.writable, { preventClose: true }),
  ]);
  const { code } = await child.status;
  await Deno.remove(book, { recursive: true });
  return { code, summary };
}

async function lastSummary(stream: ReadableStream<Uint8Array>): Promise<string | undefined> {
  const lines = (text: string) => text.split("\n").map(stripVTControlCharacters);
  const decoder = new TextDecoder();
  let summary: string | undefined;
  let rest = "";
  for await (const chunk of stream) {
    const complete = lines(rest + decoder.decode(chunk, { stream: true }));
    rest = complete.pop() ?? "";
    summary = complete.findLast((line) => SUMMARY.test(line)) ?? summary;
  }
  return SUMMARY.test(rest) ? rest : summary;
}

const minutes = (seconds: number) =>
  `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;

/** Runs the tests named by `args`, prints the closing line, and returns the exit code. */
async function main(args: readonly string[]): Promise<number> {
  const start = performance.now();
  const { name, installed } = await ensureAdapter();
  console.log(`WebGPU adapter: ${name}`);
  const before = await cacheBytes();
  const named = args.filter(exists);
  const options = args.filter((arg) => !named.includes(arg) && arg !== "--");
  const places = named.length > 0 ? named : PLACES.filter(exists);
  const { code, summary } = await runTests([...options, ...places]);
  const [passed, failed, skipped] = (summary?.match(SUMMARY) ?? []).slice(1).map((n) =>
    Number(n ?? 0)
  );
  const seconds = (performance.now() - start) / 1000;
  const state = stateOf({ installed, before, after: await cacheBytes() });
  const times = named.length + options.length === 0 ? await rememberTime(state, seconds) : {};
  console.log(`Time: ${minutes(seconds)}, ${MACHINE_STATES[state]}.`);
  for (const [other, last] of Object.entries(times)) {
    if (other !== state) console.log(`      ${minutes(last)} last time, ${MACHINE_STATES[other]}.`);
  }
  if (!summary) console.error("No test ran: deno test stopped before its first one.");
  else if (passed + failed === 0) console.error("No test ran: nothing matched.");
  console.log(
    `${passed ?? 0} passed, ${failed ?? 0} failed${skipped ? `, ${skipped} skipped` : ""}`,
  );
  return code || (passed > 0 && failed === 0 ? 0 : 1);
}

try {
  Deno.exitCode = await main(Deno.args);
} catch (error) {
  console.error((error as Error).message);
  console.log("0 passed, 0 failed");
  Deno.exitCode = 1;
}
