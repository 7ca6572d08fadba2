/**
 * Training: data, optimizer, schedules, checkpoints, reports.
 *
 * @module
 */
export type { TrainingRule } from "../adapters/training-rule.ts";
export { adamW, type AdamWOptions } from "./adamw.ts";
export type { AnyBatch, TrainingBatch } from "./batch.ts";
export type { Criterion, EvaluatedEntry } from "./best.ts";
export { type BatchOptions, packExamples, padExamples } from "./data.ts";
export {
  type ChatExample,
  type ChatFields,
  type CompletionExample,
  type Example,
  type InstructionExample,
  parseJsonl,
  readJsonl,
  type ShareGptExample,
  type TextExample,
} from "./examples.ts";
export { evaluate, type Evaluation, type Measure } from "./evaluate.ts";
export { computeGradients } from "./gradients.ts";
export { type LabelSet, labelsIn } from "./labels.ts";
export { loraFa, type LoraFaOptions } from "./lora-fa.ts";
export { loraPlus, type LoraPlusOptions } from "./lora-plus.ts";
export type { Optimizer, OptimizerStep, OptimizerTime, TrainedLeaf } from "./optimizer.ts";
export { preprocessLoraga, type PreprocessLoragaOptions } from "./preprocess-loraga.ts";
export type { HistoryEntry, StepReport } from "./report.ts";
export { riemannian, type RiemannianOptions } from "./riemannian.ts";
export { type TrainingProgress, trainingProgress } from "./progress.ts";
export { type SeedRun, type SeedSearch, trainSeeds } from "./seeds.ts";
export { learningRateFactor, type Schedule, SCHEDULES } from "./schedule.ts";
export { measureAnswers, measureTexts } from "./measures.ts";
export type { DataNote } from "./notes.ts";
export { type DataRow, type DataTable, readTable } from "./read-table.ts";
export {
  type AnswerWindow,
  type Columns,
  LONG_ROWS,
  type LongRows,
  type TokenizedExample,
  type TokenizeOptions,
} from "./row-rule.ts";
export { tokenizeData, type TokenizedData, tokenizeExamples } from "./tokenize.ts";
export { train, type TrainResult } from "./train.ts";
export type { TrainOptions } from "./train-options.ts";
export type { TrainingData } from "./training-data.ts";
