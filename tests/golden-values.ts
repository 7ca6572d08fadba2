/**
 * Values that golden files do not hold: both sides compute them from names, and compare what is large by a sketch.
 *
 * @module
 */
import { assert } from "@std/assert";
import { adapterKeys } from "../lib/adapters/checkpoint/adapter-keys.ts";
import { leafName } from "../lib/adapters/leaves.ts";
import { leavesAt } from "../lib/adapters/parts.ts";
import type { PeftModel } from "../lib/adapters/peft-model.ts";
import { toFloat32 } from "../lib/tensor/convert.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../lib/tensor/tensor.ts";

/** Bound of what is apart as a share of the largest. */
export const SHARE = 2e-5;

/** The largest of some numbers, and their sum with fixed weights. */
export type Sketch = readonly [largest: number, sum: number];

/** The values of a name, as the scripts that write golden files compute them. */
export function valuesOf(name: string, length: number): Float32Array<ArrayBuffer> {
  const seed = [...name].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
  return Float32Array.from({ length }, (_, i) => 0.6 * Math.sin(0.7 * i * i + seed));
}

/** A tensor of these. */
export function fill(name: string, shape: readonly number[]): Tensor {
  return tensor(valuesOf(name, sizeOf(shape)), { shape });
}

/** Compares numbers with their sketch; `scale` is the largest of all that they belong to. */
export function assertSketch(
  data: Float32Array,
  [largest, total]: Sketch,
  { what, scale = largest }: { readonly what: string; readonly scale?: number },
): void {
  const weights = valuesOf("sketch", data.length);
  let found = 0, sum = 0, norm = 0;
  data.forEach((x, i) => {
    found = Math.max(found, Math.abs(x));
    sum += x * weights[i];
    norm += weights[i] * weights[i];
  });
  const apart = Math.max(Math.abs(found - largest), Math.abs(sum - total) / Math.sqrt(norm));
  assert(apart <= SHARE * scale, `${what}: ${apart} of ${scale}`);
}

/** The gradient of what PEFT saves under a key, of those by leaf. */
export async function gradientOf(
  model: PeftModel,
  gradients: ReadonlyMap<string, Tensor>,
  key: string,
): Promise<Float32Array> {
  const adapter = model.adapters.get("default")!;
  const target = adapterKeys(model.base, adapter, false).get(key);
  assert(target?.kind === "leaf", `${key} is that of a leaf`);
  const { part, leaf } = target, { saved } = adapter.parts.get(part)!.leaves[leaf];
  if (!saved) return await toFloat32(gradients.get(leafName(0, part, leaf))!);
  // A part of a leaf has the same part of its gradient.
  const all = Object.entries(leavesAt(adapter, part)!).map(([name, value]) =>
    [name, gradients.get(leafName(0, part, name)) ?? value] as const
  );
  return await toFloat32(saved(Object.fromEntries(all)));
}

/** The name of the leaf that PEFT saves under a key. */
export function leafOf(model: PeftModel, key: string): string {
  const target = adapterKeys(model.base, model.adapters.get("default")!, false).get(key);
  assert(target?.kind === "leaf", `${key} is that of a leaf`);
  return leafName(0, target.part, target.leaf);
}
