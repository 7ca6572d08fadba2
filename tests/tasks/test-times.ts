/**
 * How long the tests take, by the state of the machine: drivers keep compiled shaders in a folder of their own, and with an empty one the same tests take
 * longer.
 *
 * @module
 */

/** What a machine was like when the tests began. */
export type MachineState = "bare" | "cold" | "partly" | "warm";

/** The states in words. */
export const MACHINE_STATES: Readonly<Record<string, string>> = {
  bare: "on a bare machine (a driver was installed, no shader was compiled)",
  cold: "with no shader compiled before",
  partly: "with a part of the shaders compiled before",
  warm: "with all shaders compiled before",
};

const TIMES = new URL("../../.cache/test-times.json", import.meta.url);

/** Bytes of what Mesa has compiled. */
export async function cacheBytes(): Promise<number> {
  const { MESA_SHADER_CACHE_DIR: own, XDG_CACHE_HOME: cache, HOME: home } = Deno.env.toObject();
  const folder = own ?? cache ?? `${home}/.cache`;
  let bytes = 0;
  for await (const entry of entriesOf(folder)) {
    if (!entry.name.startsWith("mesa_shader_cache")) continue;
    for await (const part of entriesOf(`${folder}/${entry.name}`)) {
      const path = `${folder}/${entry.name}/${part.name}`;
      if (part.isFile) bytes += (await Deno.stat(path)).size;
      for await (const file of part.isDirectory ? entriesOf(path) : []) {
        bytes += (await Deno.stat(`${path}/${file.name}`)).size;
      }
    }
  }
  return bytes;
}

async function* entriesOf(folder: string): AsyncGenerator<Deno.DirEntry> {
  try {
    yield* Deno.readDir(folder);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** The state of a machine, from what its shader cache held before the tests and after. */
export function stateOf(
  { installed, before, after }: {
    readonly installed: boolean;
    readonly before: number;
    readonly after: number;
  },
): MachineState {
  if (installed) return "bare";
  const share = before / Math.max(1, after);
  return share < 0.5 ? "cold" : share < 0.95 ? "partly" : "warm";
}

/** Notes how long the tests took in a state, and gives the last time in each state. */
export async function rememberTime(
  state: MachineState,
  seconds: number,
): Promise<Readonly<Record<string, number>>> {
  const known = await Deno.readTextFile(TIMES).then(JSON.parse).catch(() => ({}));
  const times = { ...known, [state]: seconds };
  await Deno.mkdir(new URL(".", TIMES), { recursive: true });
  await Deno.writeTextFile(TIMES, JSON.stringify(times));
  return times;
}
