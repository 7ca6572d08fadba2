/**
 * Inference: classes, tags, answers and embeddings of texts.
 *
 * @module
 */
export { type Answer, answer, type AnswerOptions, type Question } from "./answer.ts";
export { classify, type ClassifyOptions, type LabelScore, type ScoreFunction } from "./classify.ts";
export { embed, type EmbedOptions } from "./embed.ts";
export type { InferenceOptions } from "./run-rows.ts";
export { type Aggregation, type Entity, tag, type TagOptions } from "./tag.ts";
