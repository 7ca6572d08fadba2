/**
 * What a model's classes are called.
 *
 * @module
 */
import { isObject } from "../io/json.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { labelCount } from "../model/label-count.ts";

/** Names of classes, of the config's `id2label`; `LABEL_0` and so on where it names none. */
export function labelNames(config: ModelConfig): readonly string[] {
  const { id2label } = config, names = isObject(id2label) ? id2label : {};
  return Array.from({ length: labelCount(config) }, (_, i) => String(names[i] ?? `LABEL_${i}`));
}

/** Probabilities that add up to 1. */
export function softmax(scores: Float32Array): Float64Array {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(scores, (x) => Math.exp(x - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}
