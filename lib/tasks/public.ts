/**
 * What the package exports of tasks.
 *
 * @module
 */
export { answerSpan } from "./question-ans.ts";
export { imageText } from "./image-text.ts";
export { nextToken } from "./causal-lm.ts";
export type {
  HostBatch,
  HostPart,
  Objective,
  OutputField,
  Targets,
  Task,
  Values,
} from "./objective.ts";
export { textClass } from "./seq-cls.ts";
export { tokenClass } from "./token-cls.ts";
export { writtenToken } from "./seq-2-seq-lm.ts";
