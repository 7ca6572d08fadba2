/**
 * What a model is for.
 *
 * @module
 */

/**
 * The tasks of PEFT, in its order: classifying texts, sequence-to-sequence and causal language
 * modelling, classifying tokens, finding answers in a text, and features without a head.
 *
 * @example
 * ```ts
 * import { loraConfig, TaskType } from "@graft/peft";
 * console.log(loraConfig({ taskType: TaskType.CAUSAL_LM }).taskType); // CAUSAL_LM
 * ```
 */
export const TaskType = {
  SEQ_CLS: "SEQ_CLS",
  SEQ_2_SEQ_LM: "SEQ_2_SEQ_LM",
  CAUSAL_LM: "CAUSAL_LM",
  TOKEN_CLS: "TOKEN_CLS",
  QUESTION_ANS: "QUESTION_ANS",
  FEATURE_EXTRACTION: "FEATURE_EXTRACTION",
} as const;
Object.freeze(TaskType);

/** What a model is adapted for. */
export type TaskType = keyof typeof TaskType;

/** All task types, in PEFT's order. */
export const TASK_TYPES: readonly TaskType[] = Object.freeze(Object.values(TaskType));
