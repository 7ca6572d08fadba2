/**
 * The folder of a training run: what an earlier run left there, and what this one leaves.
 *
 * @module
 */
import { join } from "node:path";
import { savePretrained } from "../adapters/checkpoint/save.ts";
import type { PeftModel } from "../adapters/peft-model.ts";
import { FileError, ValueError } from "../errors.ts";
import { writeFileAtomic } from "../io/atomic.ts";
import { wrap } from "../io/byte-source.ts";
import type { HistoryEntry } from "../training/report.ts";
import type { TrainOptions } from "../training/train-options.ts";
import type { CliContext } from "./context.ts";

/** Saves what hours have trained, in another place where the one that was asked for fails. */
export async function saveSomewhere(
  context: CliContext,
  model: PeftModel,
  out: string,
): Promise<string> {
  try {
    await savePretrained(model, out);
    return out;
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    const other = await Deno.makeTempDir({ prefix: "graft-adapter-" });
    await savePretrained(model, other);
    context.err(`${error.message}\nThe adapter was saved in ${other} instead.\n`);
    return other;
  }
}

/** What was learned when, and with which settings, for those who find the adapter later. */
export async function writeRecords(
  folder: string,
  history: readonly HistoryEntry[],
  settings: TrainOptions & Readonly<Record<string, unknown>>,
): Promise<void> {
  const { evalData: _data, metrics: _measure, objective, resume: _path, ...others } = settings;
  const kept = { ...others, objective: objective?.name };
  const lines = history.map((entry) => `${JSON.stringify(entry)}\n`);
  await writeFileAtomic(join(folder, "history.jsonl"), lines.join(""));
  await writeFileAtomic(join(folder, "training_options.json"), JSON.stringify(kept, null, 2));
}

/** Refuses a folder with an earlier run, unless that goes on or is replaced. */
export async function refuseExisting(
  { out, overwrite, resume }: {
    readonly out: string;
    readonly overwrite?: boolean;
    readonly resume?: string | true;
  },
): Promise<void> {
  if (overwrite || resume !== undefined) return;
  const left = (await entriesOf(out)).filter((name) =>
    name === "adapter_config.json" || isCheckpoint(name)
  );
  if (left.length === 0) return;
  throw new ValueError(
    "OUT_EXISTS",
    `${out} holds an earlier run (${
      left.slice(0, 3).join(", ")
    }). Go on with it (--resume), replace it (--overwrite), or choose another folder.`,
    { out },
  );
}

/** Removes the checkpoints of an earlier run. */
export async function removeCheckpoints(out: string): Promise<void> {
  for (const name of (await entriesOf(out)).filter(isCheckpoint)) {
    await Deno.remove(join(out, name), { recursive: true });
  }
}

async function entriesOf(folder: string): Promise<string[]> {
  try {
    return await Array.fromAsync(Deno.readDir(folder), (entry) => entry.name);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) return [];
    throw wrap(cause, "NOT_A_FOLDER", `${folder} cannot be the folder of a run`, { folder });
  }
}

function isCheckpoint(name: string): boolean {
  return /^checkpoint-\d+$/.test(name);
}
