/**
 * The gate: format, lint, types, doc lint, publish dry run, then all tests with the examples in doc
 * comments. Every step runs, so that one run tells all that is wrong; the last line is the tests'.
 *
 * @module
 */

import config from "../../deno.json" with { type: "json" };

const CHECKS: readonly (readonly [name: string, ...args: string[]])[] = [
  ["format", "fmt", "--check"],
  ["lint", "lint"],
  ["types and lock file", "check", "--frozen", "--doc"],
  ["types in README.md and docs", "check", "--doc-only", "README.md", "docs/extending.md"],
  ["doc lint", "doc", "--lint", ...Object.values(config.exports)],
  ["publish dry run", "publish", "--dry-run", "--allow-dirty"],
];

/** Runs one check, silent unless it fails, and returns whether it passed. */
async function passes([name, ...args]: readonly string[]): Promise<boolean> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    stdin: "null",
  }).output();
  console.log(`${name} ... ${success ? "ok" : "FAILED"}`);
  if (!success) { for (const output of [stdout, stderr]) await Deno.stderr.write(output); }
  return success;
}

const failures: string[] = [];
for (const check of CHECKS) if (!await passes(check)) failures.push(check[0]);
const tests = await new Deno.Command(Deno.execPath(), {
  args: ["run", "--allow-all", new URL("run-tests.ts", import.meta.url).pathname, ...Deno.args],
  stdin: "null",
}).spawn().status;
if (!tests.success) failures.push("tests");
if (failures.length > 0) console.error(`The gate failed: ${failures.join(", ")}.`);
Deno.exitCode = failures.length > 0 ? 1 : 0;
