/**
 * Checkpoints of a training run: folders from which it goes on to the same losses.
 *
 * @module
 */
import { FileError, TrainingError } from "../errors.ts";
import { onDisk, writeFileAtomic } from "../io/atomic.ts";
import { wrap } from "../io/byte-source.ts";
import { readJsonFile } from "../io/json.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import type { HistoryEntry } from "./report.ts";
import type { SavedState } from "./state.ts";

/** Where a run stands. */
export interface Progress {
  /** Optimizer steps taken. */
  readonly step: number;
  /** Batches taken from the data. */
  readonly batches: number;
  /** Seed of the run. */
  readonly seed: number;
  /** What has been recorded so far. */
  readonly history: readonly HistoryEntry[];
}

const FORMAT = 1;

/**
 * Writes `<folder>/checkpoint-<step>`: trained leaves, the optimizer's state and that of rules by
 * name, and where the run stands. The folder appears whole or not at all.
 *
 * @param folder The run's folder.
 * @param contents Where the run stands, and its state.
 * @param options `beside` writes more files into the new folder before it appears, such as the
 * adapter itself.
 * @returns Path of the checkpoint.
 */
export async function writeCheckpoint(
  folder: string,
  contents: { readonly progress: Progress; readonly state: SavedState },
  options: { readonly beside?: (folder: string) => Promise<void> } = {},
): Promise<string> {
  const { progress, state } = contents;
  const path = `${folder}/checkpoint-${progress.step}`;
  const temporary = await makeTemporary(folder);
  try {
    await writeSafetensors(`${temporary}/optimizer.safetensors`, state);
    await options.beside?.(temporary);
    await writeFileAtomic(
      `${temporary}/trainer_state.json`,
      JSON.stringify({ format: FORMAT, ...progress }, null, 2),
    );
    await Deno.chmod(temporary, 0o755).catch(() => {}); // Windows has no modes
    await onDisk(path, () => replaceFolder(temporary, path));
  } catch (error) {
    await Deno.remove(temporary, { recursive: true }).catch(() => {});
    throw error;
  }
  return path;
}

function makeTemporary(folder: string): Promise<string> {
  return onDisk(folder, async () => {
    await Deno.mkdir(folder, { recursive: true });
    return await Deno.makeTempDir({ dir: folder, prefix: ".checkpoint-" });
  });
}

/**
 * Makes a run's folder, and sees whether checkpoints can be written into it.
 *
 * @throws {FileError} `WRITE_FAILED` where they cannot.
 */
export async function checkFolder(folder: string): Promise<void> {
  await Deno.remove(await makeTemporary(folder));
}

async function replaceFolder(from: string, to: string): Promise<void> {
  const old = `${from}-old`;
  const existed = await Deno.rename(to, old).then(() => true, () => false);
  try {
    await Deno.rename(from, to);
  } catch (error) {
    if (existed) await Deno.rename(old, to);
    throw error;
  }
  if (existed) await Deno.remove(old, { recursive: true });
}

/**
 * Reads a checkpoint.
 *
 * @param path A `checkpoint-<step>` folder, or a run's folder, of which the latest is taken.
 * @param expected Names and shapes of the state that the run has; those of the checkpoint are the
 * same.
 * @returns Where the run stands, its state, and the checkpoint's own folder.
 * @throws {TrainingError} where there is none, or it belongs to another model or config.
 * @throws {FileError} where it is damaged.
 */
export async function readCheckpoint(
  path: string,
  expected: ReadonlyMap<string, readonly number[]>,
): Promise<{ readonly progress: Progress; readonly state: SavedState; readonly folder: string }> {
  const folder = await latestCheckpoint(path);
  const progress = await readProgress(`${folder}/trainer_state.json`);
  const file = await openSafetensors(`${folder}/optimizer.safetensors`);
  const differs = [...expected].filter(([name, shape]) =>
    file.tensors.get(name)?.shape.join() !== shape.join()
  )
    .map(([name]) => name);
  const extra = [...file.tensors.keys()].filter((name) => !expected.has(name));
  if (differs.length || extra.length) {
    throw new TrainingError(
      "RESUME_MISMATCH",
      `The checkpoint ${folder} was written for other leaves than this model trains, or with another optimizer: ` +
        [
          ...differs.map((n) => `${n} is missing or of another shape`),
          ...extra.map((n) => `${n} is not trained here`),
        ]
          .slice(0, 4).join("; ") +
        ". Resume with the model, adapter config and optimizer of the run.",
      { differs, extra },
    );
  }
  return { folder, progress, state: file.tensors };
}

async function readProgress(path: string): Promise<Progress> {
  const { format, ...state } = await readJsonFile(path);
  if (format !== FORMAT) {
    throw new FileError(
      "CHECKPOINT_FORMAT",
      `${path} has format ${
        JSON.stringify(format) ?? "(none)"
      }; this version reads format ${FORMAT}.`,
      { path, format },
    );
  }
  const { step, batches, seed, history } = state;
  const whole = [step, batches].every((n) => Number.isSafeInteger(n) && n as number >= 0);
  if (whole && Number.isSafeInteger(seed) && Array.isArray(history) && history.length === step) {
    return state as unknown as Progress;
  }
  throw new FileError(
    "CHECKPOINT_FORMAT",
    `${path} is damaged: it needs whole numbers step, batches and seed, and one entry of history for each step. ` +
      "Resume from another checkpoint.",
    { path },
  );
}

async function latestCheckpoint(path: string): Promise<string> {
  const found: number[] = [];
  try {
    for await (const entry of Deno.readDir(path)) {
      if (entry.name === "trainer_state.json") return path;
      const match = /^checkpoint-(\d+)$/.exec(entry.name);
      if (match) found.push(Number(match[1]));
    }
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) {
      throw wrap(cause, "FILE_UNREADABLE", `${path} is no folder with checkpoints`, { path });
    }
  }
  if (found.length === 0) {
    throw new TrainingError("RESUME_MISSING", `There is no checkpoint to resume from in ${path}.`);
  }
  return `${path}/checkpoint-${Math.max(...found)}`;
}
