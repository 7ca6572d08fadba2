/**
 * TOKEN_CLS: a class for each token.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import { labelCount } from "../model/label-count.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { tensor } from "../tensor/tensor.ts";
import { classLoss, countCorrect, countLabels } from "./classes.ts";
import { LAST_HIDDEN_STATE, type Objective, targetsMissing, type Task } from "./objective.ts";

const LABELS: BatchInput = {
  name: "labels",
  axes: ["batch", "tokens"],
  dtype: "i32",
  from: 0,
  none: IGNORED_LABEL,
  optional: true,
  doc: "Class of each token [B, T], −100 where none counts. Gives `loss`.",
};

/** Cross-entropy of the tokens' classes. */
export const tokenClass: Objective = {
  name: "token class",
  outputs: ["logits"],
  inputs: (config) => [{ ...LABELS, to: labelCount(config) - 1 }],
  prepare({ rows, length, virtual, parts, learns }) {
    const given = parts.labels?.data;
    if (!given) {
      if (learns) throw targetsMissing("labels", LABELS.doc);
      return { count: 0 };
    }
    const whole = virtual + length;
    const labels = new Int32Array(rows * whole).fill(IGNORED_LABEL);
    given.forEach((label, i) => {
      labels[Math.floor(i / length) * whole + virtual + i % length] = label;
    });
    return {
      labels: { labels: tensor(labels, { shape: [rows, whole] }) },
      count: countLabels(labels),
    };
  },
  loss: ({ logits }, { labels }) => classLoss(logits, labels),
  metrics: ({ logits }, { labels }) => ({ accuracy: countCorrect(logits, labels) }),
};

/** Models that classify tokens. */
export const tokenCls: Task = {
  type: "TOKEN_CLS",
  outputs: [
    { name: "logits", doc: "Scores of each token's class [B, T, C], f32." },
    LAST_HIDDEN_STATE,
  ],
  generates: false,
  objective: tokenClass,
  heads: ["classifier", "score"],
};
