/**
 * Writing files so that a reader sees the old contents or the new, never a part.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { FileError, ValueError } from "../errors.ts";
import { show } from "../options.ts";

/** What a file can be written from: text, bytes, or pieces of bytes that are made while writing. */
export type FileContents =
  | string
  | Uint8Array
  | Iterable<Uint8Array>
  | AsyncIterable<Uint8Array>;

/**
 * Writes a file through a temporary one in the same folder, which is flushed to the disk and then
 * renamed. When anything fails, the temporary file is removed and the target is as it was.
 *
 * @param path The target; its folder must exist. A symbolic link is followed, permissions of an
 * existing file are kept.
 * @param contents What to write. An error thrown by an iterable is passed on as it is.
 * @throws {FileError} `WRITE_FAILED` where the file system refuses.
 */
export async function writeFileAtomic(path: string | URL, contents: FileContents): Promise<void> {
  const target = await followLink(pathOf(path));
  const temporary = join(
    dirname(target),
    `.${basename(target)}.${crypto.randomUUID().slice(0, 8)}.tmp`,
  );
  let ours = true;
  try {
    const mode = await modeOf(target);
    const file = await onDisk(target, () => Deno.open(temporary, { write: true, createNew: true }));
    try {
      for await (const piece of piecesOf(contents)) {
        await onDisk(target, () => writeAll(file, piece));
      }
      await onDisk(target, () => file.sync());
    } finally {
      file.close();
    }
    if (mode !== null) await onDisk(target, () => Deno.chmod(temporary, mode));
    await onDisk(target, () => Deno.rename(temporary, target));
    ours = false;
  } finally {
    if (ours) await Deno.remove(temporary).catch(() => {});
  }
  await syncFolder(dirname(target));
}

/**
 * A path, from a path or a `file:` URL.
 *
 * @throws {ValueError} `PATH` for what is neither.
 */
export function pathOf(path: string | URL): string {
  if (!(path instanceof URL) && (typeof path !== "string" || path === "")) {
    throw new ValueError("PATH", `A path or a file: URL is needed; found ${show(path)}.`);
  }
  try {
    const found = path instanceof URL || path.startsWith("file://") ? fileURLToPath(path) : path;
    if (!found.includes("\0")) return found;
  } catch { /* a URL that no file can have */ }
  throw new ValueError("PATH", `${show(String(path))} cannot be the path of a file.`);
}

function piecesOf(
  contents: FileContents,
): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
  if (typeof contents === "string") return [new TextEncoder().encode(contents)];
  return contents instanceof Uint8Array ? [contents] : contents;
}

/** Writes all of these bytes. */
export async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
}

/**
 * Runs what changes a file; what the file system refuses becomes a {@link FileError}
 * `WRITE_FAILED`.
 */
export async function onDisk<T>(target: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    if (cause instanceof FileError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FileError(
      "WRITE_FAILED",
      `${target} could not be written (${reason}); what was there before is untouched. ` +
        `Check that the folder exists, is writable and has room.`,
      { path: target },
      { cause },
    );
  }
}

async function followLink(path: string): Promise<string> {
  try {
    return (await Deno.lstat(path)).isSymlink ? await Deno.realPath(path) : path;
  } catch {
    return path;
  }
}

async function modeOf(path: string): Promise<number | null> {
  try {
    const { mode } = await Deno.stat(path);
    return mode === null ? null : mode & 0o777;
  } catch {
    return null;
  }
}

/** Makes the rename itself durable, where the system lets a folder be opened. */
export async function syncFolder(folder: string): Promise<void> {
  try {
    using handle = await Deno.open(folder);
    await handle.sync();
  } catch {
    // The new contents are in place either way.
  }
}
