/**
 * Writing several files so that all of them change, or none.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import { onDisk } from "./atomic.ts";
import { exists } from "./locate.ts";

/** One file of a group. */
export interface GroupedFile {
  /** Where it goes. Folders are made as needed. */
  readonly path: string;
  /** Writes it to another path in the same folder. */
  readonly write: (staged: string) => Promise<void>;
}

/**
 * Writes a group of files: all to temporary names first, then each takes its place. When anything
 * fails, what was there before is put back, and temporary files are removed.
 *
 * @param files The files. An error thrown by a `write` is passed on as it is.
 * @throws {FileError} `WRITE_FAILED` where the file system refuses.
 */
export async function writeFilesAtomic(files: readonly GroupedFile[]): Promise<void> {
  const tag = crypto.randomUUID().slice(0, 8);
  const hidden = (path: string, kind: string) =>
    join(dirname(path), `.${basename(path)}.${tag}.${kind}`);
  const folders: string[] = [];
  const staged: string[] = [];
  const undo: (() => Promise<void>)[] = [];
  try {
    for (const { path, write } of files) {
      folders.push(...await makeFolders(dirname(path)));
      staged.push(hidden(path, "new"));
      await write(hidden(path, "new"));
    }
    const backups: string[] = [];
    for (const { path } of files) {
      const backup = hidden(path, "old");
      if (await onDisk(path, () => moveIfFile(path, backup))) {
        backups.push(backup);
        undo.push(() => Deno.rename(backup, path));
      }
      await onDisk(path, () => Deno.rename(hidden(path, "new"), path));
      if (backups.at(-1) !== backup) undo.push(() => Deno.remove(path));
    }
    for (const backup of backups) await Deno.remove(backup).catch(() => {});
  } catch (error) {
    for (const step of undo.reverse()) await step().catch(() => {});
    for (const path of staged) await Deno.remove(path).catch(() => {});
    for (const folder of folders.reverse()) await Deno.remove(folder).catch(() => {});
    throw error;
  }
}

/** Makes a folder and those above it; gives the ones that did not exist, outermost first. */
async function makeFolders(folder: string): Promise<readonly string[]> {
  const missing: string[] = [];
  for (let at = folder; !(await onDisk(folder, () => exists(at))); at = dirname(at)) {
    missing.unshift(at);
  }
  await onDisk(folder, () => Deno.mkdir(folder, { recursive: true }));
  return missing;
}

async function moveIfFile(path: string, to: string): Promise<boolean> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  if (info.isDirectory) throw new Error("it is a folder");
  await Deno.rename(path, to);
  return true;
}
