/**
 * Running one measurement in a process of its own.
 *
 * @module
 */

/** What it took to run a child, when it failed. */
export class ChildError extends Error {}

/**
 * Runs a program and returns the lines that it printed.
 *
 * @throws {ChildError} with the end of what it wrote to its standard error, where it fails.
 */
export async function runChild(
  program: string,
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>> } = {},
): Promise<readonly string[]> {
  const { success, code, stdout, stderr } = await new Deno.Command(program, {
    args: [...args],
    env: { NO_COLOR: "1", ...options.env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (!success) {
    const said = text(stderr).split("\n").slice(-12).join("\n");
    throw new ChildError(`${[program, ...args].join(" ")} ended with code ${code}:\n${said}`);
  }
  return text(stdout).split("\n");
}

/** Path of a file beside this one. */
export function beside(name: string): string {
  return decodeURIComponent(new URL(name, import.meta.url).pathname);
}

/** Runs a module of this folder with this Deno. */
export function runDeno(
  name: string,
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>> } = {},
): Promise<readonly string[]> {
  const run = ["run", "--allow-all", "--no-check", "--quiet", beside(name)];
  return runChild(Deno.execPath(), [...run, ...args], options);
}
