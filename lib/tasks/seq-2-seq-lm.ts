/**
 * SEQ_2_SEQ_LM: writing one text for another.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
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
  prepare({ parts, learns, config }) {
    const labels = parts.labels?.data as Int32Array<ArrayBuffer> | undefined;
    if (!labels) {
      if (learns) throw targetsMissing("labels", LABELS.doc);
      return { count: 0 };
    }
    const { shape } = parts.labels;
    const start = config.decoder_start_token_id ?? config.pad_token_id;
    if (!parts.decoderInputIds && typeof start !== "number") {
      throw new ValueError(
        "DECODER_START",
        "decoderInputIds are left out, and the config has no decoder_start_token_id that they could begin with. Give them.",
      );
    }
    const pad = typeof config.pad_token_id === "number" ? config.pad_token_id : 0;
    const shifted = labels.map((_, i) => {
      const before = i % shape[1] === 0 ? start as number : labels[i - 1];
      return before === IGNORED_LABEL ? pad : before;
    });
    return {
      labels: { labels: tensor(labels, { shape }) },
      parts: parts.decoderInputIds ? undefined : { decoderInputIds: tensor(shifted, { shape }) },
      count: countLabels(labels),
    };
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
  objective: writtenToken,
};
