import { assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";

/** Which folders of lib/ a folder may import from, beside itself and the files of lib/ itself. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  tensor: [],
  ops: ["tensor", "kernels"],
  kernels: ["ops", "tensor"],
  program: ["ops", "kernels", "tensor"],
  device: ["program", "ops", "kernels", "tensor"],
  model: ["device", "program", "ops", "tensor"],
  architectures: ["model", "ops", "tensor"],
  methods: ["model", "ops", "tensor"],
  adapters: ["io", "architectures", "methods", "model", "device", "program", "ops", "tensor"],
  io: ["architectures", "model", "device", "program", "ops", "tensor"],
  training: ["adapters", "io", "methods", "model", "device", "program", "ops", "tensor"],
  generation: ["adapters", "io", "model", "device", "program", "ops", "tensor"],
  cli: [
    "training",
    "generation",
    "adapters",
    "io",
    "methods",
    "architectures",
    "model",
    "device",
    "program",
    "ops",
    "tensor",
  ],
};

const root = fileURLToPath(new URL("../", import.meta.url));

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(`${root}${folder}`)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* sources(path);
    else if (path.endsWith(".ts")) yield path;
  }
}

function room(path: string): string {
  const [top, folder] = path.split("/");
  return top === "kernels" ? "kernels" : folder;
}

Deno.test("imports run one way", async () => {
  const wrong: string[] = [];
  for (const top of ["lib", "kernels"]) {
    for await (const path of sources(top)) {
      const text = await Deno.readTextFile(`${root}${path}`);
      for (const [, specifier] of text.matchAll(/^(?:import|export)\b[^"]*?from "(\.[^"]+)"/gm)) {
        const target = new URL(specifier, `file:///${path}`).pathname.slice(1);
        const [from, to] = [room(path), room(target)];
        if (from === to || /^(lib\/(errors|options)\.ts|deno\.json)$/.test(target)) continue;
        if (!ALLOWED[from]?.includes(to)) wrong.push(`${path} -> ${target}`);
      }
    }
  }
  assertEquals(wrong, []);
});
