/**
 * Adapters with leaves that are not zero anywhere.
 *
 * @module
 */
import { trainableLeaves, withLeaves } from "../../lib/adapters/leaves.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";

/** The model with all leaves of all adapters shifted by random numbers. */
export async function randomized(model: PeftModel, seed = 5): Promise<PeftModel> {
  const random = createTorchRandom(seed);
  const names = [...model.adapters.keys()];
  const all: PeftModel = { ...model, active: names, trainable: names };
  const leaves = new Map<string, Tensor>();
  for (const [name, leaf] of trainableLeaves(all)) {
    const start = await toFloat32(leaf);
    const shift = random.normal(start.length, { std: 0.2 });
    leaves.set(name, tensor(start.map((x, i) => x + shift[i]), { shape: leaf.shape }));
  }
  const { active, trainable } = model;
  return { ...withLeaves(all, leaves), active, trainable };
}
