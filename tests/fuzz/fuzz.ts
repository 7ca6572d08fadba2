/**
 * `deno task fuzz`: damages small files of every kind that the library reads, by a seed, and sees
 * that each ends in a typed error or a right load, within 2 seconds and 512 MiB.
 *
 * `--seed` (1) and `--count` (10000) say which mutations, `--only safetensors,gguf` of which kinds;
 * `--index I` runs one alone, with the same `--seed` and `--only` as before.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { KINDS } from "./kinds.ts";
import { fuzz } from "./run.ts";
import type { Outcome } from "./worker.ts";

const { values } = parseArgs({
  args: Deno.args,
  options: {
    seed: { type: "string", default: "1" },
    count: { type: "string", default: "10000" },
    only: { type: "string", default: Object.keys(KINDS).join() },
    index: { type: "string" },
  },
});
const seed = Number(values.seed), kinds = values.only.split(",");
const unknown = kinds.filter((kind) => !Object.hasOwn(KINDS, kind));
if (unknown.length) throw new Error(`No kind ${unknown}; there are ${Object.keys(KINDS)}.`);
const indices = values.index === undefined
  ? Array.from({ length: Number(values.count) }, (_, i) => i)
  : [Number(values.index)];
const start = performance.now();
const outcomes = await fuzz({ seed, kinds, indices });
const seconds = (performance.now() - start) / 1000;

const most = (of: readonly Outcome[], by: "milliseconds" | "bytes") =>
  of.reduce((largest, outcome) => Math.max(largest, outcome[by]), 0);
const row = (name: string, of: readonly Outcome[]) =>
  [
    name.padEnd(12),
    ...[
      of.length,
      of.filter(({ end }) => end === "load").length,
      of.filter(({ end, failed }) => end !== "load" && !failed).length,
      of.filter(({ failed }) => failed).length,
      Math.round(most(of, "milliseconds")),
      Math.round(most(of, "bytes") / 2 ** 20),
    ].map((n) => String(n).padStart(9)),
  ].join("");
console.log(
  "kind".padEnd(12) +
    ["runs", "loads", "errors", "failures", "ms", "MiB"].map((t) => t.padStart(9)).join(""),
);
for (const kind of kinds) console.log(row(kind, outcomes.filter((o) => o.kind === kind)));
console.log(row("all", outcomes));
const codes = new Map<string, number>();
for (const { end, failed } of outcomes) if (!failed) codes.set(end, (codes.get(end) ?? 0) + 1);
const sorted = [...codes].sort((a, b) => b[1] - a[1]);
console.log(`\n${sorted.map(([code, count]) => `${code} ${count}`).join(", ")}`);
console.log(`\n${outcomes.length} mutations in ${Math.round(seconds)} s.`);
const failures = outcomes.filter(({ failed }) => failed);
for (const { index, kind, end, milliseconds } of failures) {
  const only = values.only === Object.keys(KINDS).join() ? "" : ` --only ${values.only}`;
  console.error(
    `\n${kind}, --seed ${seed}${only} --index ${index} (${Math.round(milliseconds)} ms):\n${end}`,
  );
}
Deno.exitCode = failures.length ? 1 : 0;
