/**
 * Writing several files so that all of them change, or none: whoever is killed while doing so, and
 * whoever does so at the same time.
 *
 * @module
 */
import { basename, dirname, join, relative, resolve } from "node:path";
import { onDisk, syncFolder, writeFileAtomic } from "./atomic.ts";
import { isObject, parseJson } from "./json.ts";
import { exists } from "./locate.ts";

/** One file of a group. */
export interface GroupedFile {
  /** Where it goes. Folders are made as needed. */
  readonly path: string;
  /** Writes it to another path in the same folder. */
  readonly write: (staged: string) => Promise<void>;
}

/**
 * Stands in a folder from the moment on at which all files of a group are there under their staged
 * names; whoever finds it moves the rest to their places.
 */
const JOURNAL = ".graft-saving.json";
/** The names of files on their way: the new one before, the old one after it has been replaced. */
const STAGED = /^\.(.+\.[0-9a-f]{8}\.(new|old)|\.graft-saving\.json\.[0-9a-f]{8}\.tmp)$/;

/** More names than a group can have. */
const MOST_NAMES = 10_000;

interface Journal {
  readonly tag: string;
  /** Paths in the folder that a staged file takes. */
  readonly files: readonly string[];
  /** Paths in the folder that go. */
  readonly removed: readonly string[];
}

/**
 * Writes a group of files: all under temporary names first, then each takes its place. When
 * anything fails, what was there before is put back, and temporary files are removed. Others who
 * write to the same folder wait, and what a process has left there that was killed is completed, or
 * cleared away.
 *
 * @param files The files. An error thrown by a `write` is passed on as it is.
 * @param options `replaces` are names in the files' common folder that go where the group has no file
 * of that name.
 * @throws {FileError} `WRITE_FAILED` where the file system refuses.
 */
export async function writeFilesAtomic(
  files: readonly GroupedFile[],
  options: { readonly replaces?: RegExp } = {},
): Promise<void> {
  const targets = files.map(({ path }) => resolve(path));
  const root = commonFolder(targets.map((path) => dirname(path)));
  const made = await makeFolders(root), tag = crypto.randomUUID().slice(0, 8);
  const staged: string[] = [];
  try {
    using _lock = await lockFolder(root);
    await settle(root, targets);
    for (const [i, { write }] of files.entries()) {
      made.push(...await makeFolders(dirname(targets[i])));
      staged.push(hidden(targets[i], tag, "new"));
      await write(staged[i]);
      await onDisk(targets[i], () => syncFile(staged[i]));
    }
    const removed = options.replaces
      ? (await namesIn(root)).filter((name) =>
        options.replaces!.test(name) && !targets.includes(join(root, name))
      )
      : [];
    await place(root, { tag, files: targets.map((path) => relative(root, path)), removed });
  } catch (error) {
    for (const path of staged) await Deno.remove(path).catch(() => {});
    for (const folder of made.reverse()) await Deno.remove(folder).catch(() => {});
    throw error;
  }
}

/**
 * Does something with files of a folder while nobody changes them, after what a killed process has
 * left there is completed.
 *
 * @param folder Which need not exist, or be writable.
 */
export async function withSettledFiles<T>(folder: string, action: () => Promise<T>): Promise<T> {
  if (await exists(join(folder, JOURNAL)).catch(() => false)) {
    using _lock = await lockFolder(folder);
    await settle(folder, []).catch(() => {}); // who may only read does so as before
  }
  using _lock = await lockFolder(folder, { shared: true });
  return await action();
}

/** Puts staged files in their places, or none of them. */
async function place(root: string, journal: Journal): Promise<void> {
  const { tag, files, removed } = journal;
  const path = join(root, JOURNAL), undo: (() => Promise<void>)[] = [];
  const forget = async () => {
    for (const name of [...files, ...removed]) {
      await Deno.remove(hidden(join(root, name), tag, "old")).catch(() => {});
    }
  };
  await writeFileAtomic(path, JSON.stringify(journal));
  try {
    const kept = new Map<string, boolean>();
    for (const name of [...files, ...removed]) {
      const target = join(root, name);
      kept.set(target, await onDisk(target, () => keep(target, hidden(target, tag, "old"))));
    }
    // Without a pause: whoever looks in between, and knows nothing of journals, sees some of both.
    for (const [target, existed] of kept) {
      await onDisk(target, () => {
        if (removed.includes(relative(root, target))) Deno.removeSync(target);
        else Deno.renameSync(hidden(target, tag, "new"), target);
        undo.push(() =>
          existed ? Deno.rename(hidden(target, tag, "old"), target) : Deno.remove(target)
        );
        return Promise.resolve();
      });
    }
  } catch (error) {
    for (const step of undo.reverse()) await step().catch(() => {});
    await Deno.remove(path);
    await forget();
    throw error;
  }
  for (const folder of new Set(files.map((name) => dirname(join(root, name))))) {
    await syncFolder(folder);
  }
  await Deno.remove(path);
  await forget();
}

/** Completes the group that a killed process was about to place, and clears what else was left. */
async function settle(root: string, targets: readonly string[]): Promise<void> {
  const folders = new Set([root, ...targets.map((path) => dirname(path))]);
  const path = join(root, JOURNAL);
  const text = await Deno.readTextFile(path).catch(() => undefined);
  const journal = text === undefined ? undefined : parseJournal(text);
  for (const name of journal?.files ?? []) {
    const target = join(root, name), staged = hidden(target, journal!.tag, "new");
    folders.add(dirname(target));
    if (await exists(staged)) await onDisk(target, () => Deno.rename(staged, target));
  }
  for (const name of journal?.removed ?? []) await Deno.remove(join(root, name)).catch(() => {});
  if (text !== undefined) await onDisk(path, () => Deno.remove(path));
  for (const folder of folders) {
    for (const name of await namesIn(folder)) {
      if (STAGED.test(name)) await Deno.remove(join(folder, name)).catch(() => {});
    }
  }
}

/** What a journal says, whose names stay below its folder; one that is damaged says nothing. */
function parseJournal(text: string): Journal | undefined {
  let value: unknown;
  try {
    ({ value } = parseJson(text, JOURNAL));
  } catch {
    return undefined;
  }
  const names = (x: unknown): x is string[] =>
    Array.isArray(x) && x.length <= MOST_NAMES &&
    x.every((name) =>
      typeof name === "string" && /^[^\0]+$/.test(name) &&
      relative("/", resolve("/", name)) === name
    );
  return isObject(value) && /^[0-9a-f]{8}$/.test(String(value.tag)) && names(value.files) &&
      names(value.removed)
    ? value as unknown as Journal
    : undefined;
}

function hidden(path: string, tag: string, kind: "new" | "old"): string {
  return join(dirname(path), `.${basename(path)}.${tag}.${kind}`);
}

/**
 * Waits until nobody else writes to a folder. Where a system cannot lock folders, as Windows, nobody
 * waits.
 */
async function lockFolder(
  folder: string,
  { shared = false }: { readonly shared?: boolean } = {},
): Promise<Disposable> {
  for (;;) {
    let handle: Deno.FsFile | undefined;
    try {
      handle = await Deno.open(folder);
      await handle.lock(!shared);
    } catch {
      handle?.close();
      return { [Symbol.dispose]() {} };
    }
    // Whoever failed to save may have removed the folder that it had made.
    const now = await Deno.stat(folder).catch(() => undefined);
    if (now?.ino === (await handle.stat()).ino) return handle;
    handle.close();
    if (!now) await makeFolders(folder);
  }
}

function commonFolder(folders: readonly string[]): string {
  let common = folders[0] ?? ".";
  while (!folders.every((folder) => folder === common || folder.startsWith(join(common, "/")))) {
    common = dirname(common);
  }
  return common;
}

/** Makes a folder and those above it; gives the ones that did not exist, outermost first. */
async function makeFolders(folder: string): Promise<string[]> {
  const missing: string[] = [];
  for (let at = folder; !(await onDisk(folder, () => exists(at))); at = dirname(at)) {
    missing.unshift(at);
  }
  await onDisk(folder, () => Deno.mkdir(folder, { recursive: true }));
  return missing;
}

function namesIn(folder: string): Promise<string[]> {
  return Array.fromAsync(Deno.readDir(folder), ({ name }) => name).catch(() => []);
}

async function syncFile(path: string): Promise<void> {
  using file = await Deno.open(path, { read: true, write: true });
  await file.sync();
}

/** Keeps a file under a second name; gives whether there was one. */
async function keep(path: string, old: string): Promise<boolean> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  if (info.isDirectory) throw new Error("it is a folder");
  // A second name where the file system has such, and else a copy.
  await Deno.link(path, old).catch(() => Deno.copyFile(path, old));
  return true;
}
