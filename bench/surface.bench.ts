/**
 * What calls on a model with adapters cost at SmolLM2-135M's size: each makes a new model value, and
 * none is to take a millisecond. No weight is read.
 *
 * @module
 */
import { addAdapter, getPeftModel } from "../lib/adapters/inject.ts";
import { withAdapterScale } from "../lib/adapters/scope.ts";
import { deleteAdapter, disableAdapters, setAdapter } from "../lib/adapters/select.ts";
import { loraConfig } from "../lib/methods/lora/lora-config.ts";
import { smolLm2Shape } from "../tests/adapters/smollm2-shape.ts";

const base = smolLm2Shape();
const all = loraConfig({ r: 8, targetModules: "all-linear", taskType: "CAUSAL_LM" });
const one = getPeftModel(base, all);
const two = addAdapter(one, "style", all);

/** The calls; the slowest is that of an adapter on all 210 linear layers. */
const CALLS: Readonly<Record<string, () => unknown>> = {
  "addAdapter, query and value layers": () => addAdapter(one, "style", loraConfig()),
  "addAdapter, all 210 linear layers": () => addAdapter(one, "style", all),
  setAdapter: () => setAdapter(two, "style"),
  "setAdapter, two together": () => setAdapter(two, ["style", "default"]),
  disableAdapters: () => disableAdapters(two),
  withAdapterScale: () => withAdapterScale(two, 0.5, (half) => half),
  deleteAdapter: () => deleteAdapter(two, "style"),
};

for (const [name, fn] of Object.entries(CALLS)) {
  Deno.bench({ name, group: "surface", fn: async () => void await fn() });
}

globalThis.addEventListener("unload", () => {
  for (const [name, fn] of Object.entries(CALLS)) {
    const times = Array.from({ length: 101 }, () => {
      const start = performance.now();
      fn();
      return performance.now() - start;
    }).sort((a, b) => a - b);
    const verdict = times[50] < 1 ? "below" : "ABOVE";
    console.log(`${name}: median ${times[50].toFixed(3)} ms, ${verdict} 1 ms`);
  }
});
