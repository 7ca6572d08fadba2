/**
 * QUESTION_ANS: where in a text the answer is.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import { add, mul } from "../ops/elementwise.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
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

/** The mean cross-entropy of the answers' first tokens and that of their last ones, averaged. */
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
    const counts = [start, end].map(countLabels), count = counts[0] + counts[1];
    // Where one of the two does not count in some row, each still makes half of the mean.
    const weights = counts.map((own) => count / 2 / Math.max(own, 1));
    return {
      labels: {
        startPositions: tensor(start),
        endPositions: tensor(end),
        ...(counts[0] !== counts[1] && { weights: tensor(Float32Array.from(weights)) }),
      },
      count,
    };
  },
  loss({ startLogits, endLogits }, { startPositions, endPositions, weights }) {
    const losses = [classLoss(startLogits, startPositions), classLoss(endLogits, endPositions)];
    const [start, end] = losses.map((loss, i) =>
      weights ? mul(loss, reshape(sliceAxis(weights, { axis: 0, start: i, size: 1 }), [])) : loss
    );
    return add(start, end);
  },
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
