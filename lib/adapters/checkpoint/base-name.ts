/**
 * What an adapter's files call its base. A path of this machine says nothing to others, and the hub
 * refuses it.
 *
 * @module
 */
import { basename, isAbsolute, relative, resolve } from "node:path";
import { pathOf } from "../../io/atomic.ts";
import type { ModelConfig } from "../../model/architecture.ts";

const HUB_ID = /^[\w-][\w.-]*\/[\w-][\w.-]*$/;

/** The id of the model whose snapshot lies at a path in the hub's cache. */
function cachedId(path: string): string | undefined {
  const [, organization, name] =
    /[\\/]models--([^\\/]+?)--([^\\/]+)[\\/]snapshots[\\/]/.exec(path) ?? [];
  return name && `${organization}/${name}`;
}

function localPath(name: string): string | undefined {
  const path = /^file:/.test(name) ? pathOf(new URL(name)) : name;
  return isAbsolute(path) ? path : undefined;
}

/**
 * The name in an adapter's config: ids and relative paths as they are; an absolute path as the id
 * that it was downloaded by, or as the way from the adapter's folder, where `fromPretrained` looks.
 */
export function configBaseName(name: string | null, folder: string): string | null {
  const path = name === null ? undefined : localPath(name);
  if (path === undefined) return name;
  return cachedId(path) ?? (relative(resolve(folder), path).replaceAll("\\", "/") || ".");
}

/** The name in a model card: `id` for its metadata, if it is known, and one for its text. */
export function cardBaseName(
  name: string | null,
  config: ModelConfig,
): { readonly id: string | null; readonly shown: string | null } {
  const path = name === null ? undefined : localPath(name);
  if (path === undefined) return { id: name, shown: name };
  const { _name_or_path: origin } = config;
  const id = cachedId(path) ??
    (typeof origin === "string" && HUB_ID.test(origin) ? origin : null);
  return { id, shown: id ?? basename(path) };
}
