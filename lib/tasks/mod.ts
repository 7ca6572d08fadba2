/**
 * The tasks that models are for: labels, losses, metrics.
 *
 * @module
 */
import type { ModelGraph } from "../model/model-graph.ts";
import type { TaskType } from "../model/task-type.ts";
import { causalLm } from "./causal-lm.ts";
import { featureExtraction } from "./feature-extraction.ts";
import type { Task } from "./objective.ts";
import { questionAns } from "./question-ans.ts";
import { seq2SeqLm } from "./seq-2-seq-lm.ts";
import { seqCls } from "./seq-cls.ts";
import { tokenCls } from "./token-cls.ts";

/** The tasks by type. Adding one is a file and a line here. */
export const TASKS: Readonly<Record<TaskType, Task>> = {
  SEQ_CLS: seqCls,
  SEQ_2_SEQ_LM: seq2SeqLm,
  CAUSAL_LM: causalLm,
  TOKEN_CLS: tokenCls,
  QUESTION_ANS: questionAns,
  FEATURE_EXTRACTION: featureExtraction,
};

/** What a model is for. */
export function taskFor({ taskType }: Pick<ModelGraph, "taskType">): Task {
  return TASKS[taskType];
}
