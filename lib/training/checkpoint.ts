/**
 * Checkpoints of a training run: folders from which it goes on to the same losses.
 *
 * @module
 */
import { z } from "zod";
import { FileError, TrainingError } from "../errors.ts";
import { onDisk, writeAll, writeFileAtomic } from "../io/atomic.ts";
import { wrap } from "../io/byte-source.ts";
import { readJsonFile } from "../io/json.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import type { Fingerprint } from "./fingerprint.ts";
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
  /** What it has learned from; not there in checkpoints of older versions. */
  readonly fingerprint?: Fingerprint;
}

const FORMAT = 1;
/** How the names of checkpoints begin that are being written. */
const TEMPORARY = ".checkpoint-";
/** How the name of one ends that another takes the place of. */
const REPLACED = "-old";

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
    return await Deno.makeTempDir({ dir: folder, prefix: TEMPORARY });
  });
}

/**
 * Makes a run's folder, and sees whether a checkpoint can be written into it; what a process that
 * was killed has left half-written is removed.
 *
 * @param folder The run's folder.
 * @param bytes Size of what will be written.
 * @throws {FileError} `WRITE_FAILED` where it cannot, for want of permission or of room.
 */
export async function checkFolder(folder: string, bytes: number): Promise<void> {
  const temporary = await makeTemporary(folder);
  try {
    const piece = new Uint8Array(Math.min(bytes, 1 << 22));
    await onDisk(folder, async () => {
      using file = await Deno.open(`${temporary}/room`, { write: true, createNew: true });
      for (let left = bytes; left > 0; left -= piece.length) {
        await writeAll(file, piece.subarray(0, Math.min(left, piece.length)));
      }
    });
  } finally {
    await Deno.remove(temporary, { recursive: true }).catch(() => {});
  }
  for (const name of await namesIn(folder)) {
    const path = `${folder}/${name}`;
    if (name.startsWith(TEMPORARY)) await Deno.remove(path, { recursive: true });
    else if (name.startsWith("checkpoint-") && name.endsWith(REPLACED)) {
      const whole = path.slice(0, -REPLACED.length);
      if ((await namesIn(folder)).includes(name.slice(0, -REPLACED.length))) {
        await Deno.remove(path, { recursive: true });
      } else await Deno.rename(path, whole);
    }
  }
}

/**
 * Removes all but the latest checkpoints of a run.
 *
 * @param limit How many stay, those of `kept` steps included.
 */
export async function removeOldCheckpoints(
  folder: string,
  { limit, kept }: { readonly limit: number; readonly kept: readonly (number | undefined)[] },
): Promise<void> {
  const steps = await checkpointSteps(folder);
  const spare = steps.filter((step) => !kept.includes(step)).sort((a, b) => a - b);
  const extra = steps.length - limit;
  for (const step of spare.slice(0, Math.max(0, extra))) {
    await Deno.remove(`${folder}/checkpoint-${step}`, { recursive: true });
  }
}

async function checkpointSteps(folder: string): Promise<number[]> {
  return (await namesIn(folder)).flatMap((name) => {
    const match = /^checkpoint-(\d+)$/.exec(name);
    return match ? [Number(match[1])] : [];
  });
}

function namesIn(folder: string): Promise<string[]> {
  return Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
}

async function replaceFolder(from: string, to: string): Promise<void> {
  const old = `${to}${REPLACED}`;
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

const COUNT = z.int().nonnegative();
const NUMBER = z.number();

/** What `trainer_state.json` must hold. */
const PROGRESS = z.object({
  step: COUNT,
  batches: COUNT,
  seed: z.int(),
  history: z.array(z.object({
    step: COUNT,
    loss: NUMBER,
    learningRate: NUMBER,
    gradientNorm: NUMBER,
    tokens: COUNT,
    evalLoss: NUMBER.optional(),
    evalMetrics: z.record(z.string(), NUMBER).optional(),
  })),
  fingerprint: z.object({
    data: z.string(),
    gradientAccumulation: COUNT,
    adapters: z.record(z.string(), z.record(z.string(), z.unknown())),
  }).optional(),
});

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
  // Entries that no step stands for are not looked at one by one.
  const counted = !Array.isArray(state.history) || state.history.length === state.step;
  const checked = PROGRESS.safeParse(counted ? state : { ...state, history: null });
  if (checked.success && checked.data.history.every(({ step }, i) => step === i + 1)) {
    return state as unknown as Progress;
  }
  throw new FileError(
    "CHECKPOINT_FORMAT",
    `${path} is damaged: it needs whole numbers step, batches and seed, and one entry of history for each step, ` +
      `with finite numbers${
        checked.error
          ? ` (${checked.error.issues[0].path.join(".")}: ${checked.error.issues[0].message})`
          : ""
      }. Resume from another checkpoint.`,
    { path },
  );
}

async function latestCheckpoint(path: string): Promise<string> {
  let found: readonly number[];
  try {
    if ((await namesIn(path)).includes("trainer_state.json")) return path;
    found = await checkpointSteps(path);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) {
      throw wrap(cause, "FILE_UNREADABLE", `${path} is no folder with checkpoints`, { path });
    }
    found = [];
  }
  if (found.length === 0) {
    throw new TrainingError("RESUME_MISSING", `There is no checkpoint to resume from in ${path}.`);
  }
  return `${path}/checkpoint-${Math.max(...found)}`;
}
