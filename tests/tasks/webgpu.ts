/**
 * Makes sure that this machine has a WebGPU adapter: where there is none, installs Debian's
 * software Vulkan driver if it may, and otherwise says what to install.
 *
 * @module
 */

import { BACKEND_VARIABLE, BACKENDS } from "../../lib/device/webgpu/backends.ts";

/** Names the folder where the files of a run note which kernels were right on WebGPU. */
export const KERNEL_BOOK = "GRAFT_KERNEL_BOOK";

const PACKAGE = "mesa-vulkan-drivers";

const ADVICE =
  `No WebGPU adapter was found, and GPU tests are never skipped. Install a Vulkan driver:
  Debian, Ubuntu   sudo apt-get install ${PACKAGE}   (on bookworm from bookworm-backports: faster)
  Fedora           sudo dnf install ${PACKAGE}
  Arch             sudo pacman -S vulkan-swrast
  Alpine           sudo apk add mesa-vulkan-swrast
A GPU's own driver serves as well.`;

/** Prints the adapter's name, or nothing where there is no adapter. */
const PROBE = `
const adapter = await navigator.gpu?.requestAdapter();
const { description, device, vendor } = adapter?.info ?? {};
if (adapter) console.log(description || device || vendor || "unnamed");
`;

/** Runs a program and returns whether it succeeded and what it wrote to its standard output. */
async function run(
  command: readonly string[],
  options: {
    readonly input?: string;
    readonly quiet?: boolean;
    readonly env?: Readonly<Record<string, string>>;
  } = {},
): Promise<{ readonly success: boolean; readonly output: string }> {
  const [program, ...args] = command;
  const { input = "", quiet = false, env } = options;
  try {
    const child = new Deno.Command(program, {
      args,
      env,
      stdin: "piped",
      stdout: "piped",
      stderr: quiet ? "null" : "inherit",
    }).spawn();
    const writer = child.stdin.getWriter();
    // A program that does not read its input may close it first.
    await writer.write(new TextEncoder().encode(input)).then(() => writer.close()).catch(() => {});
    const { success, stdout } = await child.output();
    return { success, output: new TextDecoder().decode(stdout).trim() };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { success: false, output: "" };
    throw error;
  }
}

/**
 * The name of the default WebGPU adapter, or undefined where there is none. It is asked for in a
 * fresh process: one that has looked for drivers does not see those installed afterwards.
 */
async function adapterName(): Promise<string | undefined> {
  const probe = [Deno.execPath(), "eval", "--no-config", "--no-lock", PROBE];
  const { output } = await run(probe, { env: backendEnvironment() });
  return output || undefined;
}

/** The fields of /etc/os-release; none where there is no such file. */
async function osRelease(): Promise<Readonly<Record<string, string>>> {
  const text = await Deno.readTextFile("/etc/os-release").catch(() => "");
  return Object.fromEntries(
    text.split("\n").filter((line) => line.includes("=")).map((line) => {
      const [key, value] = line.split(/=(.*)/s);
      return [key, value.replace(/^"(.*)"$/, "$1")];
    }),
  );
}

/** What to put before a command to run it as root, or undefined where that is not possible. */
async function rootPrefix(): Promise<readonly string[] | undefined> {
  if (Deno.uid() === 0) return [];
  const sudo = ["sudo", "-n"];
  return (await run([...sudo, "true"], { quiet: true })).success ? sudo : undefined;
}

/**
 * Adds the backports of a Debian release to apt's sources, from the mirror that the release itself
 * comes from, unless they are there already. Apt takes nothing from backports unasked.
 *
 * @returns whether the backports are there now.
 */
async function addBackports(apt: readonly string[], codename: string): Promise<boolean> {
  const suite = `${codename}-backports`;
  const { output } = await run([
    "apt-get",
    "indextargets",
    "--format",
    "$(RELEASE) $(CODENAME) $(COMPONENT) $(REPO_URI)",
  ]);
  const sources = output.split("\n").map((line) => line.split(" "));
  const from = (name: string) =>
    sources.find(([release, code, component]) =>
      (release === name || code === name) && component === "main"
    );
  if (from(suite)) return true;
  const uri = from(codename)?.[3];
  if (!uri) return false;
  const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
  const hasKeyring = await Deno.stat(keyring).then(() => true, () => false);
  const path = `/etc/apt/sources.list.d/${suite}.list`;
  const line = `deb ${hasKeyring ? `[signed-by=${keyring}] ` : ""}${uri} ${suite} main\n`;
  console.error(`Adding ${path}`);
  const root = apt.slice(0, apt.indexOf("env"));
  if (!(await run([...root, "tee", path], { input: line })).success) return false;
  if ((await run([...apt, "update"])).success) return true;
  // A source that cannot be read would fail every later update of apt's.
  await run([...root, "rm", path]);
  return false;
}

/** Installs the software Vulkan driver with apt; throws {@linkcode ADVICE} where it may not. */
async function installDriver(): Promise<void> {
  const { ID = "", ID_LIKE = "", VERSION_CODENAME = "" } = await osRelease();
  const isDebianLike = Deno.build.os === "linux" &&
    [ID, ...ID_LIKE.split(" ")].includes("debian") &&
    (await run(["apt-get", "--version"], { quiet: true })).success;
  const root = isDebianLike ? await rootPrefix() : undefined;
  if (!root) throw new Error(ADVICE);
  console.error(`No WebGPU adapter was found: installing ${PACKAGE}`);
  const apt = [
    ...root,
    "env",
    "DEBIAN_FRONTEND=noninteractive",
    "apt-get",
    "-qq",
    "-o",
    "DPkg::Lock::Timeout=300",
  ];
  const install = async (...options: readonly string[]): Promise<boolean> => {
    const args = ["install", "-y", "--no-install-recommends", ...options, PACKAGE];
    return (await run([...apt, ...args])).success;
  };
  await run([...apt, "update"]);
  const isBookworm = ID === "debian" && VERSION_CODENAME === "bookworm";
  // The backported driver multiplies matrices several times faster than bookworm's own.
  if (isBookworm && await addBackports(apt, VERSION_CODENAME)) {
    if (await install("-t", `${VERSION_CODENAME}-backports`)) return;
  }
  if (!await install()) throw new Error(`apt-get could not install ${PACKAGE}.\n${ADVICE}`);
}

/** The environment in which Deno looks at the library's backends only, unless a user has named others. */
export function backendEnvironment(): Readonly<Record<string, string>> {
  return { [BACKEND_VARIABLE]: Deno.env.get(BACKEND_VARIABLE) ?? BACKENDS.join() };
}

/**
 * Makes sure that there is a WebGPU adapter; tells its name, and whether a driver had to be installed for it.
 *
 * @throws {Error} what to install, where there is no adapter and none can be had.
 */
export async function ensureAdapter(): Promise<
  { readonly name: string; readonly installed: boolean }
> {
  const found = await adapterName();
  if (found) return { name: found, installed: false };
  await installDriver();
  const name = await adapterName();
  if (name) return { name, installed: true };
  throw new Error(`${PACKAGE} is installed, and still there is no adapter.\n${ADVICE}`);
}

if (import.meta.main) {
  try {
    console.error(`WebGPU adapter: ${(await ensureAdapter()).name}`);
  } catch (error) {
    console.error((error as Error).message);
    Deno.exit(1);
  }
}
