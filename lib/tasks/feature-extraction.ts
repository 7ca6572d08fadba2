/**
 * FEATURE_EXTRACTION: what a model without a head gives.
 *
 * @module
 */
import { LAST_HIDDEN_STATE, type Task } from "./objective.ts";

/** Models without a head. They have no labels; train them with `contrastive`, or an objective of your own. */
export const featureExtraction: Task = {
  type: "FEATURE_EXTRACTION",
  outputs: [LAST_HIDDEN_STATE, {
    name: "poolerOutput",
    doc: "What a pooler makes of the first token [B, D], f32, where the model has one.",
  }],
  generates: false,
  objective: null,
};
