/**
 * Telling which text belongs to which image.
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { add, mul } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import type { Value } from "../ops/value.ts";
import { classLoss, pairScores } from "./classes.ts";
import type { Objective } from "./objective.ts";

/**
 * The mean of two cross-entropies, of each image's text among those of the batch and of each text's
 * image (Radford et al., 2021, arXiv:2103.00020): what CLIP's `return_loss` is. As many images as
 * texts, in the same order.
 */
export const imageText: Objective = {
  name: "image text",
  outputs: ["logitsPerImage", "logitsPerText"],
  inputs: () => [],
  prepare: ({ rows }) => ({ count: rows }),
  loss({ logitsPerImage, logitsPerText }) {
    const each = (scores: Value) => classLoss(scores, pairs(scores));
    return mul(add(each(logitsPerImage), each(logitsPerText)), 0.5);
  },
  metrics: (batches) => pairScores(batches.map(({ outputs }) => outputs.logitsPerImage)),
};

/** The number of each row, which is that of its pair. */
function pairs({ graph, shape: [rows, columns] }: Value): Value {
  if (rows === columns) return iota(graph, [rows], { axis: 0 });
  throw new ShapeError(
    "BATCH_SHAPE",
    `Images and texts that belong together must be as many; found ${rows} and ${columns}.`,
    { rows, columns },
  );
}
