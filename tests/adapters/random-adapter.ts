/**
 * Models whose adapters all hold random numbers, for tests in which a zero would hide a mistake.
 *
 * @module
 */
import type { Adapter, PeftModel } from "../../lib/adapters/peft-model.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import type { PeftConfig } from "../../lib/methods/config.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";

/** A model with these adapters, everything that they train moved by noise. The first one is active. */
export async function randomAdapters(
  base: ModelGraph,
  configs: Readonly<Record<string, PeftConfig>>,
  seed = 3,
): Promise<PeftModel> {
  let model: PeftModel | undefined;
  for (const [adapterName, config] of Object.entries(configs)) {
    model = model
      ? addAdapter(model, adapterName, config, { seed })
      : getPeftModel(base, config, { adapterName, seed });
  }
  const random = createTorchRandom(seed);
  const adapters = new Map<string, Adapter>();
  for (const [name, adapter] of model!.adapters) {
    const moved = new Map<Tensor, Tensor>();
    const move = async (old: Tensor): Promise<Tensor> => {
      const known = moved.get(old);
      if (known) return known;
      const values = await toFloat32(old), noise = random.normal(values.length, { std: 0.15 });
      const made = tensor(values.map((x, i) => x + noise[i]), { shape: old.shape });
      moved.set(old, made);
      return made;
    };
    const all = async <T>(map: ReadonlyMap<string, T>, fn: (value: T) => Promise<T>) => {
      const out = new Map<string, T>();
      for (const [key, value] of map) out.set(key, await fn(value));
      return out;
    };
    const rows = new Map<
      unknown,
      Adapter["tokens"] extends ReadonlyMap<string, infer R> ? R : never
    >();
    adapters.set(name, {
      ...adapter,
      sites: await all(adapter.sites, async (site) => {
        const leaves: Record<string, Tensor> = {};
        for (const [leaf, old] of Object.entries(site.leaves)) leaves[leaf] = await move(old);
        return { ...site, leaves };
      }),
      parameters: await all(adapter.parameters, move),
      tokens: await all(adapter.tokens, async (entry) => {
        const renewed = rows.get(entry) ?? { ...entry, rows: await move(entry.rows) };
        rows.set(entry, renewed);
        return renewed;
      }),
    });
  }
  return { ...model!, adapters };
}
