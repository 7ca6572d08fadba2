/**
 * What a text that names a model stands for: a path, a URL or a model on the hub.
 *
 * @module
 */
import { resolve } from "node:path";
import { FileError } from "../errors.ts";
import { pathOf } from "./atomic.ts";
import { wrap } from "./byte-source.ts";

/** Where something lies. */
export type Place =
  | { readonly kind: "folder"; readonly path: string }
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "url"; readonly url: string }
  | { readonly kind: "hub"; readonly id: string };

/**
 * Finds out what a source is. What exists on this machine comes first, so a folder hides a model of
 * the same name on the hub.
 *
 * @param source A path, a `file:` or `http(s):` URL, or the id of a model on the hub
 * (`organization/name`).
 * @throws {FileError} `FILE_NOT_FOUND` where it is none of these, `FILE_UNREADABLE` where it cannot
 * be told.
 */
export async function locate(source: string | URL): Promise<Place> {
  const text = source instanceof URL ? source.href : typeof source === "string" ? source : "";
  if (/^https?:/.test(text)) return { kind: "url", url: text };
  const path = pathOf(source);
  try {
    const { isDirectory } = await Deno.stat(path);
    return { kind: isDirectory ? "folder" : "file", path };
  } catch (error) {
    if (!isMissing(error)) {
      throw wrap(error, "FILE_UNREADABLE", `${path} could not be looked at`, { path });
    }
  }
  const id = /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/;
  const isFile = /\.(gguf|safetensors|json|bin|pt|pth)$/i.test(path), [parent] = path.split("/");
  // What should lie in a folder that is here is a path.
  const within = path.includes("/") && await exists(parent).catch(() => false);
  if (id.test(path) && !isFile && !within) return { kind: "hub", id: path };
  throw new FileError(
    "FILE_NOT_FOUND",
    `${path} does not exist: there is no such ${isFile ? "file" : "folder"}${
      within ? ` in ${resolve(parent)}` : ", and it is no id of a model on the hub"
    }. Give a path that exists, or an id such as organization/name.`,
    { path },
  );
}

/**
 * Whether a file or folder exists.
 *
 * @throws {FileError} `FILE_UNREADABLE` where it cannot be told.
 */
export async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw wrap(error, "FILE_UNREADABLE", `${path} could not be looked at`, { path });
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory;
}
