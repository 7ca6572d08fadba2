/**
 * What the package exports of tasks.
 *
 * @module
 */
export { answerSpan } from "./question-ans.ts";
export { contrastive, type ContrastiveOptions } from "./contrastive.ts";
export { nextToken } from "./causal-lm.ts";
export { type AnswerScores, answerScores } from "./metrics/answer-scores.ts";
export {
  type ClassScores,
  classScores,
  type LabelSetScores,
  labelSetScores,
} from "./metrics/class-scores.ts";
export { type EntityScores, entityScores } from "./metrics/entity-scores.ts";
export { type NumberScores, numberScores } from "./metrics/number-scores.ts";
export { bleuScore, type RougeScores, rougeScores } from "./metrics/text-scores.ts";
export type {
  EvaluatedBatch,
  HostBatch,
  HostPart,
  Metrics,
  Objective,
  OutputField,
  Targets,
  Task,
  Values,
} from "./objective.ts";
export type { Pooling } from "./pooling.ts";
export { textClass } from "./seq-cls.ts";
export { tokenClass } from "./token-cls.ts";
export { writtenToken } from "./seq-2-seq-lm.ts";
