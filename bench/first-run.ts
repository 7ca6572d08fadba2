/**
 * What a first run costs: from `loadModel` to the first loss or the first token, in this process. Prints milliseconds and compiled pipelines as JSON.
 *
 * usage: deno run -A bench/first-run.ts loss|token
 *
 * @module
 */
import { createWebGpuDevice } from "../lib/device/webgpu/mod.ts";
import { getPeftModel } from "../lib/adapters/inject.ts";
import { generate } from "../lib/generation/generate.ts";
import { loadModel } from "../lib/io/load-model.ts";
import { loraConfig } from "../lib/methods/lora/lora-config.ts";
import { train } from "../lib/training/train.ts";

const model = new URL("demo/model", import.meta.url).pathname;
const ids = Array.from({ length: 100 }, (_, i) => 1 + (i * 37) % 200);

// The kernels that GPUs run; measuring variants would add to the time, and depends on the adapter.
using device = await createWebGpuDevice({ software: false, tune: false });
const start = performance.now();
const base = await loadModel(model, { device });
if (Deno.args[0] === "token") {
  await generate(base, ids, { maxNewTokens: 1 });
} else {
  const config = loraConfig({ r: 8, targetModules: "all-linear", taskType: "CAUSAL_LM" });
  const batch = { inputIds: [ids, ids], labels: [ids, ids] };
  await train(getPeftModel(base, config), [batch], { steps: 1, learningRate: 1e-3 });
}
const milliseconds = performance.now() - start;
console.log(JSON.stringify({ milliseconds, pipelines: device.memory().pipelinesCreated }));
Deno.exit(0);
