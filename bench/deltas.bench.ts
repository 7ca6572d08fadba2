/**
 * The two ways in which a delta can take part, and which one the library takes: of each method that
 * has both, on two layers of SmolLM2-135M's sizes on the CPU: `deno bench -A bench/deltas.bench.ts`;
 * with `-- --write`, the table goes into docs/methods.md.
 *
 * @module
 */
import { forward } from "../lib/adapters/forward.ts";
import { getPeftModel } from "../lib/adapters/inject.ts";
import { trainableLeaves } from "../lib/adapters/leaves.ts";
import type { PeftModel } from "../lib/adapters/peft-model.ts";
import { traceModel } from "../lib/adapters/trace-model.ts";
import { createModel } from "../lib/io/load-model.ts";
import { fromPeftJson } from "../lib/methods/peft-json.ts";
import { input } from "../lib/ops/input.ts";
import { computeGradients } from "../lib/training/gradients.ts";
import { SMOLLM2 } from "../tests/adapters/smollm2-shape.ts";
import { type Way, withDeltas } from "../tests/adapters/with-deltas.ts";
import { METHOD_SETTINGS, settingsOf } from "./method-settings.ts";
import { median } from "./peers/jobs.ts";
import { writeTable } from "./write-table.ts";

const base = await createModel(
  { ...SMOLLM2, num_hidden_layers: 2, vocab_size: 512 },
  { device: "cpu", taskType: "CAUSAL_LM" },
);
const WAYS: readonly Way[] = ["formed", "applied"];

/** What is run: rows of tokens, and whether there are gradients. */
const JOBS = {
  "1 token": { batch: 1, length: 1, trains: false },
  "256 tokens": { batch: 2, length: 128, trains: false },
  "training, 256 tokens": { batch: 2, length: 128, trains: true },
} as const;

type Job = typeof JOBS[keyof typeof JOBS];

function run(model: PeftModel, { batch, length, trains }: Job): Promise<unknown> {
  const inputIds = Array.from(
    { length: batch },
    (_, row) => Array.from({ length }, (_, i) => (row * length + i) * 7919 % 512),
  );
  return trains
    ? computeGradients(model, { inputIds, labels: inputIds })
    : forward(model, { inputIds });
}

/** Names a program: equal for equal work. */
function keyOf(model: PeftModel, { batch, length, trains }: Job): string {
  const leaves = new Map(trainableLeaves(model));
  return traceModel(model, {
    batch,
    length,
    ...(trains && {
      trained: (graph, name) => {
        const leaf = leaves.get(name);
        return leaf && input(graph, name, { shape: leaf.shape, dtype: "f32" });
      },
    }),
  }).program.key;
}

const rows: string[][] = [];
for (const name of Object.keys(METHOD_SETTINGS)) {
  const model = getPeftModel(base, fromPeftJson(settingsOf(name)), { seed: 0 });
  const ways = WAYS.map((way) => withDeltas(model, way));
  if (!ways.every((way) => way !== undefined)) continue;
  for (const [title, job] of Object.entries(JOBS)) {
    const times: Record<string, number[]> = { formed: [], applied: [] };
    for (const [i, way] of WAYS.entries()) {
      Deno.bench({
        name: `${name}, ${title}, ${way}`,
        group: `${name}, ${title}`,
        n: 5,
        warmup: 2,
        fn: async () => {
          const start = performance.now();
          await run(ways[i], job);
          times[way].push(performance.now() - start);
        },
      });
    }
    const keys = ways.map((way) => keyOf(way, job));
    const taken = WAYS[keys.indexOf(keyOf(model, job))] ?? "some of each";
    globalThis.addEventListener("unload", () => {
      if (times.applied.length === 0) return;
      const [formed, applied] = WAYS.map((way) => median(times[way].slice(2)).toFixed(1));
      rows.push([name, title, formed, applied, taken]);
    });
  }
}

globalThis.addEventListener(
  "unload",
  () => writeTable("ways", ["Method", "Work", "Formed, ms", "Applied, ms", "Taken"], rows),
);
