/**
 * Training: data, optimizer, schedules, checkpoints, reports.
 *
 * @module
 */
export type { AdamWOptions } from "./adamw.ts";
export type { TrainingBatch } from "./batch.ts";
export {
  type BatchOptions,
  packExamples,
  padExamples,
  type TokenizedExample,
  tokenizeExamples,
  type TokenizeOptions,
} from "./data.ts";
export {
  type ChatExample,
  type CompletionExample,
  type Example,
  parseJsonl,
  readJsonl,
  type TextExample,
} from "./examples.ts";
export { evaluate, type Evaluation } from "./evaluate.ts";
export { computeGradients } from "./gradients.ts";
export type { HistoryEntry, StepReport } from "./report.ts";
export { type TrainingProgress, trainingProgress } from "./progress.ts";
export { learningRateFactor, type Schedule, SCHEDULES } from "./schedule.ts";
export { train, type TrainingData, type TrainOptions, type TrainResult } from "./train.ts";
