/**
 * CAUSAL_LM: predicting the next token.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { tensor } from "../tensor/tensor.ts";
import { classLoss, countLabels } from "./classes.ts";
import { LAST_HIDDEN_STATE, type Objective, type Task } from "./objective.ts";

const LABELS: BatchInput = {
  name: "labels",
  axes: ["batch", "tokens"],
  dtype: "i32",
  none: IGNORED_LABEL,
  isToken: true,
  optional: true,
  doc: "Token ids to predict [B, T], −100 where nothing is; they are shifted inside. Gives `loss`.",
};

/**
 * Cross-entropy of the next token. Labels are the ids themselves by default, but for padding; the
 * last token of a sample predicts nothing.
 */
export const nextToken: Objective = {
  name: "next token",
  outputs: ["logits"],
  inputs: () => [LABELS],
  prepare({ ids, segments, packed, rows, length, virtual, parts, learns }) {
    const given = parts.labels?.data ??
      (learns ? ids.map((id, i) => segments[i] === 0 ? IGNORED_LABEL : id) : undefined);
    if (!given) return { count: 0 };
    const whole = virtual + length;
    const labels = new Int32Array(rows * whole).fill(IGNORED_LABEL);
    given.forEach((label, i) => {
      const at = virtual + i % length - 1;
      // Nothing comes before a row, and another sample predicts nothing of the next.
      const first = i % length > 0 && packed && segments[i] !== segments[i - 1];
      if (at >= 0 && !first) labels[Math.floor(i / length) * whole + at] = label;
    });
    return {
      labels: { labels: tensor(labels, { shape: [rows, whole] }) },
      count: countLabels(labels),
    };
  },
  loss: ({ logits }, { labels }) => classLoss(logits, labels),
};

/** Causal language models. */
export const causalLm: Task = {
  type: "CAUSAL_LM",
  outputs: [{ name: "logits", doc: "Scores of the next token [B, T, V], f32." }, LAST_HIDDEN_STATE],
  generates: true,
  objective: nextToken,
};
