/**
 * What a user waits for on WebGPU: from `loadModel` to the first loss and to the first token, in a fresh process, with no shader compiled before and with
 * all of them.
 *
 * @module
 */
import { runChild } from "./peers/child.ts";

const script = decodeURIComponent(new URL("first-run.ts", import.meta.url).pathname);
const rows: string[] = [];

for (const what of ["loss", "token"]) {
  const cache = await Deno.makeTempDir({ prefix: "graft-shaders-" });
  for (const state of ["no shader compiled before", "all shaders compiled before"]) {
    Deno.bench({
      name: `the first ${what}, ${state}`,
      group: what,
      n: 1,
      warmup: 0,
      fn: async () => {
        const args = ["run", "--allow-all", "--no-check", "--quiet", script, what];
        const env = { MESA_SHADER_CACHE_DIR: cache };
        const [line] = (await runChild(Deno.execPath(), args, { env })).slice(-1);
        const { milliseconds, pipelines } = JSON.parse(line);
        rows.push(
          `first ${what}: ${(milliseconds / 1000).toFixed(2)} s, ${pipelines} pipelines (${state})`,
        );
      },
    });
  }
  globalThis.addEventListener("unload", () => Deno.removeSync(cache, { recursive: true }));
}

globalThis.addEventListener("unload", () => console.log(`\n${rows.join("\n")}`));
