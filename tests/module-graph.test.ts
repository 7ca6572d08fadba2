import { assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";

/** Which folders of lib/ a folder may import from, beside itself and the files of lib/ itself. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  tensor: [],
  regexp: [],
  kernels: ["tensor"],
  ops: ["tensor", "kernels"],
  program: ["ops", "kernels", "tensor"],
  device: ["program", "ops", "kernels", "tensor"],
  model: ["device", "program", "ops", "tensor"],
  architectures: ["model", "ops", "tensor"],
  methods: ["model", "ops", "regexp", "tensor"],
  tasks: ["model", "ops", "tensor"],
  adapters: [
    "io",
    "tasks",
    "architectures",
    "methods",
    "model",
    "device",
    "program",
    "ops",
    "tensor",
  ],
  io: ["architectures", "model", "device", "program", "ops", "regexp", "tensor"],
  training: ["adapters", "io", "tasks", "methods", "model", "device", "program", "ops", "tensor"],
  generation: ["adapters", "io", "tasks", "model", "device", "program", "ops", "tensor"],
  inference: ["adapters", "io", "tasks", "model", "ops", "tensor"],
  cli: [
    "training",
    "generation",
    "inference",
    "adapters",
    "io",
    "tasks",
    "methods",
    "architectures",
    "model",
    "device",
    "program",
    "ops",
    "tensor",
  ],
};

/** Files that may import one another, each group for a reason. */
const CIRCLES: readonly (readonly string[])[] = [
  // Types only: a method is made of rules, and the rules speak of the method's leaves and traces.
  ["combine", "method", "refit", "site-rule", "training-rule"].map((f) => `lib/methods/${f}.ts`),
];

const root = fileURLToPath(new URL("../", import.meta.url));

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(`${root}${folder}`)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* sources(path);
    else if (path.endsWith(".ts")) yield path;
  }
}

/** What each file of lib/ and kernels/ imports. */
const imports = new Map<string, readonly string[]>();
for (const top of ["lib", "kernels"]) {
  for await (const path of sources(top)) {
    const text = await Deno.readTextFile(`${root}${path}`);
    const found = text.matchAll(/^(?:import|export)\b[^"();]*?from "(\.[^"]+)"/gm);
    imports.set(path, [...found].map((m) => new URL(m[1], `file:///${path}`).pathname.slice(1)));
  }
}

function room(path: string): string {
  const [top, folder] = path.split("/");
  return top === "kernels" ? "kernels" : folder;
}

Deno.test("imports run one way", () => {
  const wrong: string[] = [];
  for (const [path, targets] of imports) {
    for (const target of targets) {
      const [from, to] = [room(path), room(target)];
      if (from === to || /^(lib\/(errors|options)\.ts|deno\.json)$/.test(target)) continue;
      if (!ALLOWED[from]?.includes(to)) wrong.push(`${path} -> ${target}`);
    }
  }
  assertEquals(wrong, []);
});

Deno.test("no file imports itself by way of others", () => {
  /** Files that each file reaches. */
  const reached = new Map([...imports.keys()].map((path) => {
    const seen = new Set<string>();
    const queue = [path];
    for (const p of queue) {
      for (const target of imports.get(p) ?? []) {
        if (!seen.has(target)) queue.push(target);
        seen.add(target);
      }
    }
    return [path, seen] as const;
  }));
  const circles = new Set<string>();
  for (const [path, seen] of reached) {
    if (seen.has(path)) {
      circles.add([...seen].filter((p) => reached.get(p)?.has(path)).sort().join());
    }
  }
  assertEquals([...circles].sort(), CIRCLES.map((files) => [...files].sort().join()));
});
