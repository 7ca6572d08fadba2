/**
 * How many classes a model tells apart, and what they are called.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import { show } from "../options.ts";
import type { ModelConfig } from "./architecture.ts";

/** The kinds of labels that texts can have, as transformers calls them. */
export type ProblemType =
  | "regression"
  | "single_label_classification"
  | "multi_label_classification";

/** The values of {@link ProblemType}. */
export const PROBLEM_TYPES: readonly ProblemType[] = [
  "regression",
  "single_label_classification",
  "multi_label_classification",
];

/** More classes than a model can be meant to tell apart. */
const MOST_LABELS = 1 << 20;

/** Number of classes that a config names; 2 where it names none, as in transformers. */
export function labelCount({ num_labels, id2label }: ModelConfig): number {
  const count = num_labels ??
    (typeof id2label === "object" && id2label ? Object.keys(id2label).length : 2);
  if (Number.isSafeInteger(count) && (count as number) > 0 && (count as number) <= MOST_LABELS) {
    return count as number;
  }
  throw new ConfigError(
    "MODEL_CONFIG",
    `The config of a model needs from 1 to ${MOST_LABELS} classes as num_labels or in id2label; found ${
      show(count)
    }.`,
  );
}

/** The names of a model's classes in their order; LABEL_0, LABEL_1 … where its config names none. */
export function labelNames(config: ModelConfig): string[] {
  const names = (config.id2label ?? {}) as Readonly<Record<number, unknown>>;
  return Array.from({ length: labelCount(config) }, (_, i) => String(names[i] ?? `LABEL_${i}`));
}
