/**
 * How many classes a model tells apart.
 *
 * @module
 */
import type { ModelConfig } from "./architecture.ts";

/** Number of classes that a config names; 2 where it names none, as in transformers. */
export function labelCount({ num_labels, id2label }: ModelConfig): number {
  if (typeof num_labels === "number") return num_labels;
  return typeof id2label === "object" && id2label ? Object.keys(id2label).length : 2;
}
