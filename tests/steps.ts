/**
 * Losses and gradients of a model in training, for comparison with those of torch.
 *
 * @module
 */
import { assert } from "@std/assert";
import { trainableLeaves, withLeaves } from "../lib/adapters/leaves.ts";
import type { PeftModel } from "../lib/adapters/peft-model.ts";
import { toFloat32 } from "../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../lib/tensor/tensor.ts";
import { computeGradients } from "../lib/training/gradients.ts";

/** A right-padded batch with what it has to predict, all [B, T]. */
export interface LabelledBatch {
  readonly inputIds: Tensor;
  readonly attentionMask: Tensor;
  readonly labels: Tensor;
  /** What a step of training draws. */
  readonly noise?: Readonly<Record<string, Tensor>>;
}

/** A loss and its gradients by leaf. */
export interface Step {
  readonly loss: number;
  readonly grads: ReadonlyMap<string, Float32Array>;
}

/** One step's loss and gradients by leaf, as its rules have them, without dropout. */
export async function differentiate(model: PeftModel, batch: LabelledBatch): Promise<Step> {
  const { loss, gradients } = await computeGradients(model, batch, { ofStep: true });
  const grads = new Map<string, Float32Array>();
  for (const [name, gradient] of gradients) grads.set(name, await toFloat32(gradient));
  return { loss, grads };
}

/**
 * The losses before each AdamW step (Loshchilov and Hutter, 2019, arXiv:1711.05101), one for a batch,
 * with torch's defaults.
 */
export async function adamLosses(
  start: PeftModel,
  batches: readonly LabelledBatch[],
  { lr, weight_decay: decay }: { readonly lr: number; readonly weight_decay: number },
): Promise<readonly number[]> {
  const [beta1, beta2, epsilon] = [0.9, 0.999, 1e-8];
  const moments = new Map<string, readonly [Float64Array, Float64Array]>();
  const losses: number[] = [];
  let model = start;
  for (const [i, batch] of batches.entries()) {
    const { loss, grads } = await differentiate(model, batch), step = i + 1;
    losses.push(loss);
    const changed = new Map<string, Tensor>();
    for (const [name, leaf] of trainableLeaves(model)) {
      const g = grads.get(name)!;
      const [m, v] = moments.get(name) ?? [new Float64Array(g.length), new Float64Array(g.length)];
      moments.set(name, [m, v]);
      const values = (await toFloat32(leaf)).map((x, i) => {
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
        const rate = m[i] / (1 - beta1 ** step) / (Math.sqrt(v[i] / (1 - beta2 ** step)) + epsilon);
        return x * (1 - lr * decay) - lr * rate;
      });
      changed.set(name, tensor(values, { shape: leaf.shape }));
    }
    model = withLeaves(model, changed);
  }
  return losses;
}

/** The largest difference as a share of `largest`, the largest expected value by default. */
export function apart(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  largest = Math.max(...Array.from(want, Math.abs)),
): number {
  assert(got.length === want.length, `${got.length} values for ${want.length}`);
  return Math.max(...Array.from(want, (value, i) => Math.abs(got[i] - value))) / largest;
}
