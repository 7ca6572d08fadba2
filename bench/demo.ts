/**
 * The main job on the embedded model, without any download: sample, fine-tune a LoRA, sample again, save it, load it again and see
 * that nothing changed. `deno task demo [--device cpu|webgpu|webgpu-fallback]`.
 *
 * @module
 */
import {
  evaluate,
  forward,
  generate,
  getPeftModel,
  loadAdapter,
  loadModel,
  loadTokenizer,
  loraConfig,
  planAdapter,
  savePretrained,
  train,
  trainingProgress,
} from "../mod.ts";
import { logBook } from "./demo/log-book.ts";

const at = Deno.args.indexOf("--device");
const device = (at < 0 ? "auto" : Deno.args[at + 1]) as
  | "auto"
  | "cpu"
  | "webgpu"
  | "webgpu-fallback";
const folder = new URL("./demo/model", import.meta.url).pathname;
const started = performance.now();

const base = await loadModel(folder, { device });
const tokenizer = await loadTokenizer(folder);
console.log(
  `A byte-level llama trained on Moby-Dick, on ${base.device.kind} (${base.device.description}).\n`,
);

const prompt = "Day 12. ";
const sample = async (model: Parameters<typeof generate>[0]) => {
  const { text } = await generate(model, prompt, {
    tokenizer,
    maxNewTokens: 120,
    temperature: 0.6,
    seed: 3,
  });
  return prompt + text;
};
console.log(`Before:\n${await sample(base)}\n`);

const config = loraConfig({
  r: 8,
  loraAlpha: 16,
  targetModules: "all-linear",
  taskType: "CAUSAL_LM",
});
const plan = planAdapter(base, config);
console.log(
  `A LoRA on ${plan.sites.length} layers: ${plan.trainableParameters} parameters to train.`,
);

const rows = logBook({ entries: 400, seed: 7 }).map((text) => tokenizer.encode(text));
const LENGTH = 128, BATCH = 8;
const stream = rows.flatMap((row) => [...row, tokenizer.eosId!]);
const batches = [];
for (let i = 0; i + BATCH * LENGTH <= stream.length; i += BATCH * LENGTH) {
  batches.push({
    inputIds: Array.from(
      { length: BATCH },
      (_, j) => stream.slice(i + j * LENGTH, i + (j + 1) * LENGTH),
    ),
  });
}
const held = batches.splice(-2);
const model = getPeftModel(base, config, { seed: 1 });
const before = await evaluate(model, held);
const progress = trainingProgress();
const { model: trained } = await train(model, batches, {
  learningRate: 5e-3,
  steps: 120,
  schedule: "cosine",
  warmupSteps: 5,
  seed: 1,
  onStep: progress.update,
});
progress.stop();
const after = await evaluate(trained, held);
console.log(
  `Loss on held-back text: ${before.loss.toFixed(3)} before, ${after.loss.toFixed(3)} after.\n`,
);
console.log(`After:\n${await sample(trained)}\n`);

const out = await Deno.makeTempDir({ prefix: "graft-demo-" });
await savePretrained(trained, out);
const files = [];
for await (const file of Deno.readDir(out)) files.push(file.name);
console.log(`Saved ${files.sort().join(", ")} to ${out}.`);

const again = await loadAdapter(base, out);
const inputs = { inputIds: held[0].inputIds };
const [one, two] = await Promise.all(
  [trained, again].map(async (m) =>
    (await (await forward(m, inputs)).logits.data()) as Float32Array
  ),
);
const same = one.every((x, i) => Object.is(x, two[i]));
console.log(
  `Loaded again: ${one.length} logits are ${same ? "the same, bit for bit" : "DIFFERENT"}.`,
);
await Deno.remove(out, { recursive: true });
console.log(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s.`);
if (!same || !(after.loss < before.loss)) Deno.exit(1);
