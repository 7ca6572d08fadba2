/**
 * A sentence encoder that learns to tell spam from mail, here and in Python: `deno task spam [--rows 800] [--device cpu]`.
 *
 * Trains a SEQ_CLS LoRA on all-MiniLM-L6-v2 for one pass over mails of SpamAssassin's corpus, and classifies as many that it has not seen.
 * Python's PEFT does the same from the same first adapter and head, on the same batches. Prints the accuracy of both and their rows per
 * second, with as many threads each; the exit code is 1 where accuracies are more than one point apart. `GRAFT_ORACLE_PYTHON` names a
 * Python with torch, transformers and peft (default `python3`).
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  type DeviceName,
  evaluate,
  getPeftModel,
  loadModel,
  loraConfig,
  padExamples,
  savePretrained,
  tokenizeData,
  tokenizerOf,
  train,
} from "../mod.ts";
import { randomOrder } from "../lib/tensor/random.ts";
import { type Mail, miniLm, spamAssassin } from "./datasets.ts";
import { beside, runChild } from "./peers/child.ts";
import { median } from "./peers/jobs.ts";

/** How far accuracies may be apart, and how many times as many rows per second are wanted. */
const APART = 0.01, WANTED = 1.5;
const BATCH = 16, LENGTH = 128, LEARNING_RATE = 1e-3;

/** What one side reached. */
interface Run {
  readonly accuracy: number;
  /** Rows per second of the median step, and of the whole evaluation. */
  readonly trainRows: number;
  readonly evaluationRows: number;
}

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "800" },
    device: { type: "string", default: "cpu" },
    threads: { type: "string", default: String(navigator.hardwareConcurrency) },
  },
});
const rows = Number(values.rows), threads = Number(values.threads);

/** Subject and text, which is all that tells: headers say where the corpus was collected. */
function rowOf({ group, text }: Mail): { readonly text: string; readonly label: number } {
  const end = text.search(/\r?\n\r?\n/), head = text.slice(0, end);
  const subject = /^Subject: *(.*)$/m.exec(head)?.[1] ?? "";
  return { text: `${subject}\n${text.slice(end).trim()}`, label: Number(group.startsWith("spam")) };
}

const mails = await spamAssassin();
const order = randomOrder(mails.length, { seed: 0, stream: 0 });
const [learned, heldBack] = [0, 1].map((part) =>
  order.slice(part * rows, (part + 1) * rows).map((i) => rowOf(mails[i]))
);
const folder = await Deno.makeTempDir({ prefix: "graft-spam-" });
const model = await miniLm();
await Deno.writeTextFile(join(folder, "rows.json"), JSON.stringify({ learned, heldBack }));

async function ours(): Promise<Run> {
  const base = await loadModel(model, {
    device: values.device as DeviceName,
    threads,
    taskType: "SEQ_CLS",
    labelNames: ["mail", "spam"],
  });
  using _device = base.device;
  const config = loraConfig({ r: 8, loraAlpha: 16, taskType: "SEQ_CLS" });
  const start = getPeftModel(base, config, { seed: 0 });
  await savePretrained(start, join(folder, "start"));
  const tokenizer = await tokenizerOf(base);
  const [data, evalData] = [learned, heldBack].map((some) =>
    padExamples(tokenizeData(some, { model: base, tokenizer, maxLength: LENGTH }).examples, {
      batchSize: BATCH,
    })
  );
  const seconds: number[] = [];
  let last = performance.now();
  const { model: trained } = await train(start, data, {
    learningRate: LEARNING_RATE,
    onStep() {
      const now = performance.now();
      seconds.push((now - last) / 1000);
      last = now;
    },
  });
  const began = performance.now();
  const { metrics } = await evaluate(trained, evalData);
  return {
    accuracy: metrics.accuracy,
    trainRows: BATCH / median(seconds),
    evaluationRows: rows / ((performance.now() - began) / 1000),
  };
}

async function theirs(): Promise<Run> {
  const python = Deno.env.get("GRAFT_ORACLE_PYTHON") ?? "python3";
  const settings = { batch: BATCH, length: LENGTH, learningRate: LEARNING_RATE, threads };
  const script = beside("spam_reference.py");
  const lines = await runChild(python, [script, model, folder, JSON.stringify(settings)]);
  return JSON.parse(lines.at(-1)!) as Run;
}

const results = { Graft: await ours(), "Python PEFT": await theirs() };
await Deno.remove(folder, { recursive: true });
console.log(`${rows} mails learned and ${rows} held back, batch ${BATCH}, ${threads} threads`);
for (const [who, { accuracy, trainRows, evaluationRows }] of Object.entries(results)) {
  console.log(
    `${who.padEnd(11)}  accuracy ${(100 * accuracy).toFixed(2)} %, training ${
      trainRows.toFixed(1)
    } rows/s, evaluation ${evaluationRows.toFixed(1)} rows/s`,
  );
}
const [own, other] = Object.values(results);
const apart = Math.abs(own.accuracy - other.accuracy), kept = apart <= APART;
console.log(
  `${kept ? "ok    " : "FAILED"}  accuracies apart: ${(100 * apart).toFixed(2)} points (at most ${
    100 * APART
  })`,
);
for (
  const [what, ratio] of [
    ["training", own.trainRows / other.trainRows],
    ["evaluation", own.evaluationRows / other.evaluationRows],
  ] as const
) {
  console.log(
    `${ratio >= WANTED ? "met   " : "MISSED"}  rows/s of ${what}, to Python's: ${
      ratio.toFixed(2)
    } (of ${WANTED})`,
  );
}
if (!kept) Deno.exitCode = 1;
