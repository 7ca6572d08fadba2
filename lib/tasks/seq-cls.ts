/**
 * SEQ_CLS: a class, several labels or a number for each text.
 *
 * @module
 */
import type { ModelConfig } from "../model/architecture.ts";
import type { BatchInput } from "../model/batch-input.ts";
import { labelCount, type ProblemType } from "../model/label-count.ts";
import { abs, add, exp, log, max, mul, neg, sub } from "../ops/elementwise.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { tensor } from "../tensor/tensor.ts";
import { chosenClasses, classLoss, countLabels, rowsOf } from "./classes.ts";
import { classScores, labelSetScores } from "./metrics/class-scores.ts";
import { numberScores } from "./metrics/number-scores.ts";
import {
  type EvaluatedBatch,
  type HostPart,
  LAST_HIDDEN_STATE,
  type Metrics,
  type Objective,
  targetsMissing,
  type Task,
} from "./objective.ts";

/** What kind of labels there are: as the config says, else as their number and form say. */
export function problemOf(config: ModelConfig, labels: unknown): ProblemType {
  if (typeof config.problem_type === "string") return config.problem_type as ProblemType;
  if (labelCount(config) === 1) return "regression";
  const isTable = typeof labels === "object" && labels !== null && "shape" in labels
    ? (labels.shape as readonly number[]).length === 2
    : Array.isArray(labels) && Array.isArray(labels[0]);
  return isTable ? "multi_label_classification" : "single_label_classification";
}

function labelsOf(config: ModelConfig, given: unknown): BatchInput {
  const classes = labelCount(config), problem = problemOf(config, given);
  const common = { name: "labels", optional: true } as const;
  if (problem === "single_label_classification") {
    return {
      ...common,
      axes: ["batch"],
      dtype: "i32",
      from: 0,
      none: IGNORED_LABEL,
      to: classes - 1,
      doc: "Class of each row [B], −100 where none counts. Gives `loss`.",
    };
  }
  if (problem === "multi_label_classification") {
    return {
      ...common,
      axes: ["batch", classes],
      dtype: "f32",
      doc: "1 for each label of a row and 0 for the others [B, C]. Gives `loss`.",
    };
  }
  return {
    ...common,
    axes: classes === 1 ? ["batch"] : ["batch", classes],
    dtype: "f32",
    doc: `Number to predict of each row [B${classes === 1 ? "" : ", C"}]. Gives \`loss\`.`,
  };
}

/**
 * Cross-entropy for one class of several, binary cross-entropy for several labels, squared error for
 * numbers: by the config's `problem_type`, or, as in transformers, by the number of labels and their
 * form.
 */
export const textClass: Objective = {
  name: "text class",
  outputs: ["logits"],
  inputs: (config, given) => [labelsOf(config, given?.labels)],
  prepare({ parts, learns, config }) {
    if (!parts.labels) {
      if (learns) throw targetsMissing("labels", labelsOf(config, undefined).doc);
      return { count: 0 };
    }
    const { data, shape } = parts.labels;
    const count = data instanceof Int32Array ? countLabels(data) : data.length;
    // The name tells programs apart: squares and labels have one shape.
    const regression = data instanceof Float32Array &&
      problemOf(config, parts.labels) === "regression";
    return { labels: { [regression ? "values" : "labels"]: tensor(data, { shape }) }, count };
  },
  loss({ logits }, { labels, values }) {
    if (values) {
      const off = sub(reshape(logits, [-1]), reshape(values, [-1]));
      return sum(mul(off, off));
    }
    if (labels.dtype === "i32") return classLoss(logits, labels);
    // −log σ of what is and of what is not, without large exponentials.
    const stable = log(add(exp(neg(abs(logits))), 1));
    return sum(add(sub(max(logits, 0), mul(logits, labels)), stable));
  },
  metrics(batches, config): Metrics {
    const classes = labelCount(config);
    const [{ labels: { values, labels } }] = batches;
    if (values) {
      const all = (of: (batch: EvaluatedBatch) => HostPart) =>
        batches.flatMap((batch) => [...of(batch).data]);
      return { ...numberScores(all((b) => b.outputs.logits), all((b) => b.labels.values)) };
    }
    if (labels.data instanceof Int32Array) {
      const { predicted, expected } = chosenClasses(
        batches.map(({ outputs, labels }) => [outputs.logits, labels.labels]),
      );
      return { ...classScores(predicted, expected, { classes }) };
    }
    const rows = (of: (batch: EvaluatedBatch) => HostPart) =>
      batches.flatMap((batch) => rowsOf(of(batch)).map(({ data }) => data));
    const found = rows((b) => b.outputs.logits).map((row) => row.map((x) => x > 0 ? 1 : 0));
    return { ...labelSetScores(found, rows((b) => b.labels.labels)) };
  },
};

/** Models that classify texts. */
export const seqCls: Task = {
  type: "SEQ_CLS",
  outputs: [{ name: "logits", doc: "Scores of each text's class [B, C], f32." }, LAST_HIDDEN_STATE],
  generates: false,
  decoderReads: "inputIds",
  objective: textClass,
  heads: ["classifier", "score"],
};
