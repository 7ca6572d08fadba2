/**
 * Models whose adapters all hold random numbers, for tests in which a zero would hide a mistake.
 *
 * @module
 */
import { mapLeaves } from "../../lib/adapters/parts.ts";
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
    for (const { leaves } of adapter.parts.values()) {
      for (const { kind, tensor: old } of Object.values(leaves)) {
        if (kind !== "trained" || !old) continue;
        const values = await toFloat32(old), noise = random.normal(values.length, { std: 0.15 });
        moved.set(old, tensor(values.map((x, i) => x + noise[i]), { shape: old.shape }));
      }
    }
    const parts = mapLeaves(adapter.parts, (old) => moved.get(old) ?? old);
    adapters.set(name, { ...adapter, parts });
  }
  return { ...model!, adapters };
}
