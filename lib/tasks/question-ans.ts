/**
 * QUESTION_ANS: where in a text the answer is.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import { add } from "../ops/elementwise.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { tensor } from "../tensor/tensor.ts";
import { chosenClasses, classLoss, countLabels } from "./classes.ts";
import { ratio } from "./metrics/class-scores.ts";
import { LAST_HIDDEN_STATE, type Objective, targetsMissing, type Task } from "./objective.ts";

const [START, END] = (["start", "end"] as const).map((which): BatchInput => ({
  name: `${which}Positions`,
  axes: ["batch"],
  dtype: "i32",
  from: 0,
  optional: true,
  doc: `Index of the answer's ${
    which === "start" ? "first" : "last"
  } token in each row [B]; beyond the row where there is none, which does not count. Both give \`loss\`.`,
}));

/** Mean of the cross-entropies of the answers' first and last tokens. */
export const answerSpan: Objective = {
  name: "answer span",
  outputs: ["startLogits", "endLogits"],
  inputs: () => [START, END],
  prepare({ parts, learns, ...rows }) {
    const given = [START, END].map(({ name }) => parts[name]);
    const missing = [START, END].find((_, i) => !given[i]);
    if (missing) {
      if (learns || given.some((part) => part)) throw targetsMissing(missing.name, missing.doc);
      return { count: 0 };
    }
    // Nothing stands before a decoder's rows.
    const read = parts.decoderInputIds;
    const { length, virtual } = read ? { length: read.shape[1], virtual: 0 } : rows;
    const [start, end] = given.map(({ data }) =>
      Int32Array.from(data, (at) => at >= length ? IGNORED_LABEL : virtual + at)
    );
    return {
      labels: { startPositions: tensor(start), endPositions: tensor(end) },
      count: countLabels(start) + countLabels(end),
    };
  },
  loss: ({ startLogits, endLogits }, { startPositions, endPositions }) =>
    add(classLoss(startLogits, startPositions), classLoss(endLogits, endPositions)),
  metrics(batches) {
    const { predicted, expected } = chosenClasses(batches.flatMap(({ outputs, labels }) => [
      [outputs.startLogits, labels.startPositions],
      [outputs.endLogits, labels.endPositions],
    ]));
    return {
      accuracy: ratio(expected.filter((at, i) => at === predicted[i]).length, expected.length),
    };
  },
};

/** Models that find answers. */
export const questionAns: Task = {
  type: "QUESTION_ANS",
  outputs: [
    { name: "startLogits", doc: "Scores of each token to be an answer's first [B, T], f32." },
    { name: "endLogits", doc: "Scores of each token to be an answer's last [B, T], f32." },
    LAST_HIDDEN_STATE,
  ],
  generates: false,
  decoderReads: "inputIds",
  objective: answerSpan,
  heads: ["qa_outputs"],
};
