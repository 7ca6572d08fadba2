/**
 * What a user waits for on WebGPU: from `loadModel` to the first loss and to the first token, each in a fresh process, with no shader compiled before and with
 * all of them. A line for each at the end gives the shortest time and the number of pipelines.
 *
 * @module
 */
import { runChild } from "./peers/child.ts";

const script = decodeURIComponent(new URL("first-run.ts", import.meta.url).pathname);
const shortest = new Map<string, { readonly milliseconds: number; readonly pipelines: number }>();
const caches: string[] = [];

/** Runs the script in a process that keeps compiled shaders in this folder. */
async function run(what: string, cache: string): Promise<void> {
  const args = ["run", "--allow-all", "--no-check", "--quiet", script, what];
  const env = { MESA_SHADER_CACHE_DIR: cache };
  const result = JSON.parse((await runChild(Deno.execPath(), args, { env })).at(-1)!);
  const name = `${what}, ${cache === caches.at(-1) ? "all" : "no"} shaders compiled before`;
  const known = shortest.get(name);
  if (!known || result.milliseconds < known.milliseconds) shortest.set(name, result);
}

for (const what of ["loss", "token"]) {
  Deno.bench({
    name: `the first ${what}, no shaders compiled before`,
    group: what,
    n: 1,
    fn: async () => {
      const cache = await Deno.makeTempDir({ prefix: "graft-shaders-" });
      await run(what, cache);
      caches.push(cache);
    },
  });
  Deno.bench({
    name: `the first ${what}, all shaders compiled before`,
    group: what,
    n: 1,
    fn: async () => await run(what, caches.at(-1)!),
  });
}

globalThis.addEventListener("unload", () => {
  for (const cache of caches) Deno.removeSync(cache, { recursive: true });
  for (const [name, { milliseconds, pipelines }] of shortest) {
    console.log(`first ${name}: ${(milliseconds / 1000).toFixed(2)} s, ${pipelines} pipelines`);
  }
});
