/**
 * Which backends are looked at, in processes of their own: a process that has looked for adapters does not look again.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { BACKEND_VARIABLE } from "../../../lib/device/webgpu/backends.ts";

const MODULES = {
  device: new URL("../../../lib/device/webgpu/mod.ts", import.meta.url),
  open: new URL("../../../lib/device/open.ts", import.meta.url),
};

/** What a program prints where no Vulkan driver can be found. */
async function withoutVulkan(
  program: string,
  options: { readonly env?: Readonly<Record<string, string>>; readonly args?: string[] } = {},
): Promise<string> {
  const { env = {}, args = ["--allow-all"] } = options;
  const path = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(
      path,
      `import { createWebGpuDevice } from "${MODULES.device}";
import { openDevice } from "${MODULES.open}";
const attempt = (device) => device.then((d) => d.kind, (error) => error.code);
${program}`,
    );
    const config = decodeURIComponent(new URL("../../../deno.json", import.meta.url).pathname);
    const inherited = Deno.env.toObject();
    delete inherited[BACKEND_VARIABLE];
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "--quiet", "--config", config, ...args, path],
      clearEnv: true,
      env: { ...inherited, VK_DRIVER_FILES: "/nonexistent", ...env },
      stdin: "null",
    }).output();
    const [out, error] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes).trim());
    assert(out !== "", error);
    return out;
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("OpenGL is not taken: there is no adapter, and the device is the CPU", async () => {
  const program = `console.log(
    await attempt(createWebGpuDevice()), await attempt(openDevice("webgpu-fallback")),
    await attempt(openDevice("auto")));`;
  assertEquals(await withoutVulkan(program), "WEBGPU_ADAPTER WEBGPU_ADAPTER cpu");
});

Deno.test("OpenGL is not taken where the environment cannot be set", async () => {
  const program = `console.log(await attempt(createWebGpuDevice()));`;
  const args = ["--allow-read", "--deny-env"];
  assertEquals(await withoutVulkan(program, { args }), "WEBGPU_ADAPTER");
});

Deno.test("OpenGL is taken by name, from an option or from Deno's own variable, where there is one", async () => {
  const found = await withoutVulkan(
    `console.log((await navigator.gpu.requestAdapter()) ? "webgpu" : "WEBGPU_ADAPTER");`,
  );
  assertEquals(
    await withoutVulkan(
      `console.log(await attempt(createWebGpuDevice({ backends: ["gl"] })));`,
    ),
    found,
  );
  const env = { [BACKEND_VARIABLE]: "gl" };
  assertEquals(
    await withoutVulkan(`console.log(await attempt(createWebGpuDevice()));`, { env }),
    found,
  );
});
