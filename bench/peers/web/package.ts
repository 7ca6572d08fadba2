/**
 * The compared libraries are dependencies of this folder's `deno.json` and lock file alone.
 *
 * @module
 */

/**
 * Imports a package under a name that the project's type check does not follow, so that the check, the project's lock file and its
 * users do without it.
 */
// deno-lint-ignore no-explicit-any -- types come with the package, which the check does not have
export function importPackage(name: string): Promise<any> {
  return import(name);
}

/** The version that this folder's `deno.json` pins. */
export async function versionOf(name: string): Promise<string> {
  const { imports } = JSON.parse(
    await Deno.readTextFile(new URL("./deno.json", import.meta.url)),
  ) as { imports: Record<string, string> };
  return imports[name].match(/@(\d[^/]*)/)![1];
}
