import { assertEquals, assertStringIncludes } from "@std/assert";
import { inFolder } from "./folder.ts";

const root = new URL("../../", import.meta.url);

/** What an expression ends in, in a process with these permissions: a code and the message. */
async function endOf(expression: string, permissions: readonly string[]): Promise<string> {
  const source = `import * as graft from ${JSON.stringify(new URL("mod.ts", root).href)};
    import * as safetensors from ${JSON.stringify(new URL("lib/io/safetensors.ts", root).href)};
    try { await ${expression}; console.log("nothing"); }
    catch (error) { console.log(error.constructor.name, error.code, error.message); }
    Deno.exit(0);`;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      "--no-check",
      "--config",
      new URL("deno.json", root).pathname,
      ...permissions,
      `data:text/typescript,${encodeURIComponent(source)}`,
    ],
    stdin: "null",
  }).output();
  const said = new TextDecoder();
  return said.decode(stdout) || said.decode(stderr);
}

Deno.test("a permission that is missing is a typed error that names its flag", () =>
  inFolder(async (folder) => {
    const at = JSON.stringify(folder);
    const cases: [string, readonly string[], string, string][] = [
      [`graft.openCheckpoint(${at})`, [], "FileError FILE_UNREADABLE", "--allow-read"],
      [
        `graft.openCheckpoint(${at})`,
        [`--allow-read=${folder}/x`],
        "FileError FILE_UNREADABLE",
        "--allow-read",
      ],
      [
        "graft.downloadFromHub('a/b')",
        ["--allow-read"],
        "FileError HUB_UNREACHABLE",
        "--allow-env",
      ],
      [
        `graft.downloadFromHub('a/b', { cacheDir: ${at} })`,
        ["--allow-read", "--allow-env"],
        "FileError HUB_UNREACHABLE",
        "--allow-net",
      ],
      [
        `safetensors.writeSafetensors(${at} + '/a', {})`,
        ["--allow-read"],
        "FileError WRITE_FAILED",
        "--allow-write",
      ],
      ["graft.tinyModel()", ["--allow-read"], "DeviceError NO_RUNTIME", "--allow-ffi"],
    ];
    await Promise.all(cases.map(async ([expression, permissions, code, flag]) => {
      const end = await endOf(expression, permissions);
      assertEquals(end.slice(0, code.length), code, `${expression}: ${end}`);
      assertStringIncludes(end, flag);
    }));
  }));
