/**
 * Models from the Hugging Face hub, in the cache that Python's `huggingface_hub` uses too.
 *
 * @module
 */
import {
  downloadFile,
  getHFHubCachePath,
  getRepoFolderName,
  HubApiError,
  type ListFileEntry,
  listFiles,
  modelInfo,
} from "@huggingface/hub";
import { createHash } from "node:crypto";
import { dirname, join, relative } from "node:path";
import { FileError, ValueError } from "../errors.ts";
import { BOOLEAN, FUNCTION, type OptionRules, TEXT } from "../options.ts";
import { onDisk, writeFileAtomic } from "./atomic.ts";
import { wrap } from "./byte-source.ts";
import { readTextFile } from "./json.ts";
import { exists } from "./locate.ts";

/** How to reach the hub. */
export interface HubOptions {
  /** Branch, tag or commit; `main` by default. */
  readonly revision?: string;
  /**
   * The cache folder; by default `$HF_HUB_CACHE`, else `hub` in `$HF_HOME`, else in
   * `~/.cache/huggingface`.
   */
  readonly cacheDir?: string;
  /** Used instead of the global `fetch`. */
  readonly fetch?: typeof fetch;
  /** An access token for private and gated models; `$HF_TOKEN` by default. */
  readonly token?: string;
  /** Uses the cache only; `$HF_HUB_OFFLINE` by default. */
  readonly offline?: boolean;
  /** Is told how far each file has come. */
  readonly onProgress?: (progress: DownloadProgress) => void;
}

/** What the options of the hub must be. */
export const HUB_RULES: OptionRules<HubOptions> = {
  revision: TEXT,
  cacheDir: TEXT,
  fetch: FUNCTION,
  token: TEXT,
  offline: BOOLEAN,
  onProgress: FUNCTION,
};

/** How far the download of one file has come. */
export interface DownloadProgress {
  /** Its path in the repository. */
  readonly file: string;
  /** Bytes so far. */
  readonly loaded: number;
  /** Bytes in all. */
  readonly total: number;
}

/** What to download. */
export interface DownloadOptions extends HubOptions {
  /**
   * Files that must exist: paths in the repository, in which `*` stands for any characters but a
   * slash.
   */
  readonly files?: readonly string[];
  /** Files to take where they exist; what a model and its tokenizer need by default. */
  readonly optionalFiles?: readonly string[];
}

/** What was downloaded. */
export interface Download {
  /** The folder that holds the files, under their paths in the repository. */
  readonly folder: string;
  /** The commit. */
  readonly revision: string;
  /** The files that were asked for and exist, by path. */
  readonly files: readonly string[];
  /**
   * Whether the hub could not be (or was not to be) reached and the files are those that the cache
   * had.
   */
  readonly fromCache: boolean;
}

/** What a tokenizer is read from. */
export const TOKENIZER_FILES: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
];

/** What folders of sentence-transformers hold beside a model. */
const SENTENCE_FILES: readonly string[] = [
  "modules.json",
  "sentence_bert_config.json",
  "config_sentence_transformers.json",
  "*_Pooling/config.json",
  "*_Dense/config.json",
  "*_Dense/model.safetensors",
];

/** What a model is read from, its tokenizer included. */
export const MODEL_FILES: readonly string[] = [
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "model.safetensors.index.json",
  "model-*-of-*.safetensors",
  ...TOKENIZER_FILES,
  ...SENTENCE_FILES,
];

/**
 * Downloads files of a model into the cache, unless they are there. Each file is checked against
 * the hash that the hub states and appears in the cache only when it is complete.
 *
 * @param id The model, such as `HuggingFaceTB/SmolLM2-135M`.
 * @throws {FileError} `HUB_NOT_FOUND`, `HUB_UNAUTHORIZED`, `HUB_UNREACHABLE` (with nothing in the
 * cache), `HUB_FILE_MISSING`, `HUB_DAMAGED` where what arrives is not what was announced,
 * `HUB_FAILED` for any other answer, and for one that leads out of the cache.
 * @throws {ValueError} `HUB_NAME` for an id or a revision that cannot be.
 *
 * @example
 * ```ts ignore
 * import { downloadFromHub } from "@graft/peft";
 * const { folder } = await downloadFromHub("HuggingFaceTB/SmolLM2-135M", { revision: "main" });
 * ```
 */
export async function downloadFromHub(
  id: string,
  options: DownloadOptions = {},
): Promise<Download> {
  const { revision = "main", files = [], optionalFiles = files.length ? [] : MODEL_FILES } =
    options;
  checkName(id, { what: "id", must: "organization/name", good: ID.test(id) });
  checkName(revision, {
    what: "revision",
    must: "a branch, a tag or a commit",
    good: isInside(revision),
  });
  const cache = join(
    options.cacheDir ?? fromSystem(id, getHFHubCachePath),
    getRepoFolderName({ type: "model", name: id }),
  );
  const wanted = { id, cache, revision, files, optionalFiles };
  if (options.offline ?? fromSystem(id, isOffline)) return await fromCache(wanted);
  const access = {
    fetch: options.fetch,
    accessToken: options.token ?? fromSystem(id, () => Deno.env.get("HF_TOKEN")),
  };
  let sha: string;
  const entries: ListFileEntry[] = [];
  try {
    ({ sha } = await modelInfo({ ...access, name: id, revision, additionalFields: ["sha"] }));
    // All that an answer says becomes a part of paths.
    if (!HASH.test(sha)) throw unsafe(id, "commit", sha);
    for await (
      const entry of listFiles({ ...access, repo: id, revision: sha, recursive: true })
    ) {
      if (entry.type === "file") entries.push(entry);
    }
  } catch (cause) {
    const error = hubError(cause, id, revision);
    if (error.code !== "HUB_UNREACHABLE") throw error;
    return await fromCache(wanted, error);
  }
  const chosen = choose(entries.map((entry) => entry.path), wanted);
  const folder = join(cache, "snapshots", sha);
  for (const entry of entries) {
    if (!chosen.includes(entry.path) || await exists(join(folder, entry.path))) continue;
    const oid = entry.lfs?.oid ?? entry.oid ?? crypto.randomUUID().replaceAll("-", "");
    if (!HASH.test(oid)) throw unsafe(id, `hash of ${entry.path}`, oid);
    const blob = join(cache, "blobs", oid);
    await onDisk(blob, () => Deno.mkdir(dirname(blob), { recursive: true }));
    if (!await exists(blob)) {
      try {
        const body = await downloadFile({
          ...access,
          repo: id,
          path: entry.path,
          revision: sha,
          xet: false,
        });
        if (!body) {
          throw new FileError("HUB_FILE_MISSING", `${id} has no file ${entry.path} any more.`, {
            id,
            file: entry.path,
          });
        }
        await writeFileAtomic(blob, checked(body, { entry, id, onProgress: options.onProgress }));
      } catch (cause) {
        throw hubError(cause, id, revision);
      }
    }
    const path = join(folder, entry.path);
    await onDisk(path, () => link(blob, path));
  }
  if (revision !== sha) {
    const ref = join(cache, "refs", revision);
    await onDisk(ref, () => Deno.mkdir(dirname(ref), { recursive: true }));
    await writeFileAtomic(ref, sha);
  }
  return { folder, revision: sha, files: chosen, fromCache: false };
}

interface Wanted {
  readonly id: string;
  readonly cache: string;
  readonly revision: string;
  readonly files: readonly string[];
  readonly optionalFiles: readonly string[];
}

/** What the environment and the system say, for which a permission may be missing. */
function fromSystem<T>(id: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw wrap(
      cause,
      "HUB_UNREACHABLE",
      `${id} is no file or folder here, and how to reach the hub for it is not known. ` +
        "Give cacheDir, offline and token, or allow to look",
      { id },
    );
  }
}

function isOffline(): boolean {
  return /^(1|on|yes|true)$/i.test(Deno.env.get("HF_HUB_OFFLINE") ?? "");
}

function choose(paths: readonly string[], wanted: Wanted): string[] {
  for (const pattern of wanted.files) {
    if (paths.some((path) => matches(pattern, path))) continue;
    throw new FileError(
      "HUB_FILE_MISSING",
      `${wanted.id} has no file ${pattern} at ${wanted.revision}. It has ${list(paths)}.`,
      { id: wanted.id, file: pattern, files: paths },
    );
  }
  const patterns = [...wanted.files, ...wanted.optionalFiles];
  const chosen = paths.filter((path) => patterns.some((pattern) => matches(pattern, path)));
  if (chosen.length === 0) {
    throw new FileError(
      "HUB_FILE_MISSING",
      `${wanted.id} has none of the files wanted (${
        list(patterns)
      }) at ${wanted.revision}. It has ${list(paths)}.`,
      { id: wanted.id, files: paths },
    );
  }
  for (const path of chosen) if (!isInside(path)) throw unsafe(wanted.id, "path", path);
  return chosen;
}

/** Hashes of git and of large files, in hexadecimal digits. */
const HASH = /^[0-9a-f]{32,64}$/;
/** What models are called on the hub. */
const ID = /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/;

/** Whether a path that is joined to a folder stays below it, on any system. */
function isInside(path: string): boolean {
  // deno-lint-ignore no-control-regex -- such are no names of files
  return path.split("/").every((part) => !/^$|^\.\.?$|[\\:\x00-\x1f]/.test(part));
}

function unsafe(id: string, what: string, value: string): FileError {
  return new FileError(
    "HUB_FAILED",
    `The hub's answer about ${id} has the unsafe ${what} ${
      JSON.stringify(value.slice(0, 200))
    }. Nothing was written.`,
    { id, what, value },
  );
}

function checkName(
  value: string,
  { what, must, good }: { readonly what: string; readonly must: string; readonly good: boolean },
): void {
  if (good) return;
  throw new ValueError(
    "HUB_NAME",
    `The ${what} of a model on the hub must be ${must}; found ${JSON.stringify(value)}.`,
    { [what]: value },
  );
}

function list(names: readonly string[]): string {
  if (names.length === 0) return "no files";
  return names.slice(0, 12).join(", ") +
    (names.length > 12 ? ` and ${names.length - 12} more` : "");
}

function matches(pattern: string, path: string): boolean {
  const source = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${source.join("[^/]*")}$`).test(path);
}

async function fromCache(wanted: Wanted, reason?: FileError): Promise<Download> {
  const { id, cache, revision } = wanted;
  const ref = join(cache, "refs", revision);
  const sha = await exists(ref) ? (await readTextFile(ref)).trim() : revision;
  if (!isInside(sha)) throw unsafe(id, "commit in the cache", sha);
  const folder = join(cache, "snapshots", sha);
  if (!await exists(folder)) {
    throw reason ?? new FileError(
      "HUB_UNREACHABLE",
      `${id} at ${revision} is not in the cache ${cache}, and the hub is not to be asked (offline).`,
      { id, revision, cache },
    );
  }
  const paths: string[] = [];
  await walk(folder, "", paths);
  return { folder, revision: sha, files: choose(paths, wanted), fromCache: true };
}

async function walk(folder: string, prefix: string, paths: string[]): Promise<void> {
  for await (const entry of Deno.readDir(join(folder, prefix))) {
    const path = prefix ? `${prefix}/${entry.name}` : entry.name;
    if (entry.isDirectory) await walk(folder, path, paths);
    else if (await exists(join(folder, path))) paths.push(path);
  }
}

/**
 * Passes bytes on and, at the end, compares them with the size and the hash that were announced.
 */
async function* checked(
  body: Blob,
  options: {
    readonly entry: ListFileEntry;
    readonly id: string;
    readonly onProgress?: (progress: DownloadProgress) => void;
  },
): AsyncGenerator<Uint8Array> {
  const { entry, id } = options;
  const total = entry.lfs?.size ?? entry.size;
  // Large files are named by the SHA-256 of their contents, the others by git's hash.
  const hash = createHash(entry.lfs ? "sha256" : "sha1");
  if (!entry.lfs) hash.update(`blob ${total}\0`);
  let loaded = 0;
  for await (const chunk of body.stream()) {
    hash.update(chunk);
    loaded += chunk.length;
    if (loaded > total) break; // it may have no end
    options.onProgress?.({ file: entry.path, loaded, total });
    yield chunk;
  }
  const announced = entry.lfs?.oid ?? entry.oid;
  if (loaded !== total || announced !== undefined && hash.digest("hex") !== announced) {
    throw new FileError(
      "HUB_DAMAGED",
      `${entry.path} of ${id} did not arrive as announced (${loaded} of ${total} bytes${
        loaded === total ? ", another hash" : ""
      }). Try again.`,
      { id, file: entry.path, loaded, total },
    );
  }
}

/**
 * Makes a file of the snapshot: a symbolic link to the blob, or a copy where links are not allowed.
 */
async function link(blob: string, path: string): Promise<void> {
  const folder = dirname(path);
  await Deno.mkdir(folder, { recursive: true });
  const temporary = join(folder, `.${crypto.randomUUID()}.tmp`);
  try {
    await Deno.symlink(relative(folder, blob), temporary);
  } catch {
    await Deno.copyFile(blob, temporary);
  }
  await Deno.rename(temporary, path);
}

function hubError(cause: unknown, id: string, revision: string): FileError {
  const details = { id, revision };
  if (!(cause instanceof HubApiError)) {
    return wrap(
      cause,
      "HUB_UNREACHABLE",
      `${id} is no file or folder here, and the hub could not be reached for it`,
      details,
    );
  }
  const status = cause.statusCode;
  const [code, advice] = status === 401 || status === 403
    ? [
      "HUB_UNAUTHORIZED",
      "It is private, gated or does not exist: check the id, accept its terms on the hub, and give an access token (token, or $HF_TOKEN)",
    ]
    : status === 404
    ? ["HUB_NOT_FOUND", "Check the id and the revision, or the path if a folder is meant"]
    : ["HUB_FAILED", "Try again later"];
  return wrap(cause, code, `${id} at ${revision} cannot be had from the hub. ${advice}`, {
    ...details,
    status,
  });
}
