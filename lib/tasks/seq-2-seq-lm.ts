/**
 * SEQ_2_SEQ_LM: writing one text for another.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { tensor } from "../tensor/tensor.ts";
import { classLoss, countLabels } from "./classes.ts";
import { type Objective, targetsMissing, type Task } from "./objective.ts";

const LABELS: BatchInput = {
  name: "labels",
  axes: ["batch", "decoderTokens"],
  dtype: "i32",
  none: IGNORED_LABEL,
  isToken: true,
  optional: true,
  doc: "Token ids that the decoder has to write [B, U], −100 where nothing is. Gives `loss`.",
};

/** Cross-entropy of what the decoder writes. */
export const writtenToken: Objective = {
  name: "written token",
  outputs: ["logits"],
  inputs: () => [LABELS],
  prepare({ parts, learns }) {
    const labels = parts.labels?.data as Int32Array<ArrayBuffer> | undefined;
    if (!labels) {
      if (learns) throw targetsMissing("labels", LABELS.doc);
      return { count: 0 };
    }
    const { shape } = parts.labels;
    return { labels: { labels: tensor(labels, { shape }) }, count: countLabels(labels) };
  },
  loss: ({ logits }, { labels }) => classLoss(logits, labels),
};

/** Encoder–decoder language models. */
export const seq2SeqLm: Task = {
  type: "SEQ_2_SEQ_LM",
  outputs: [
    { name: "logits", doc: "Scores of the decoder's next token [B, U, V], f32." },
    { name: "lastHiddenState", doc: "Output of the decoder's last norm [B, U, D], f32." },
    { name: "encoderLastHiddenState", doc: "Output of the encoder [B, T, D], f32." },
  ],
  generates: true,
  decoderReads: "labels",
  objective: writtenToken,
};
