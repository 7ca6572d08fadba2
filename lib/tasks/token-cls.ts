/**
 * TOKEN_CLS: a class for each token.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import { labelCount, labelNames } from "../model/label-count.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { tensor } from "../tensor/tensor.ts";
import { chosenClasses, classLoss, countLabels, rowsOf } from "./classes.ts";
import { classScores } from "./metrics/class-scores.ts";
import { areEntityTags, entityScores } from "./metrics/entity-scores.ts";
import {
  LAST_HIDDEN_STATE,
  type Metrics,
  type Objective,
  targetsMissing,
  type Task,
} from "./objective.ts";

const LABELS: BatchInput = {
  name: "labels",
  axes: ["batch", "tokens"],
  dtype: "i32",
  from: IGNORED_LABEL,
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
  metrics(batches, config): Metrics {
    // Entities do not go on from one row into the next.
    const rows = batches.flatMap(({ outputs, labels }) => {
      const scores = rowsOf(outputs.logits);
      return rowsOf(labels.labels).map((labels, i) => chosenClasses([[scores[i], labels]]));
    });
    const all = (of: "predicted" | "expected") => rows.flatMap((row) => row[of]);
    const { accuracy, f1Macro } = classScores(all("predicted"), all("expected"), {
      classes: labelCount(config),
    });
    const names = labelNames(config);
    if (!areEntityTags(names)) return { accuracy, f1Macro };
    const tags = (of: "predicted" | "expected") =>
      rows.map((row) => row[of].map((id) => names[id]));
    return { accuracy, ...entityScores(tags("predicted"), tags("expected")) };
  },
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
