/**
 * Which task a model is for, and what its config says about it.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Architecture, ModelConfig } from "./architecture.ts";
import type { TaskType } from "./task-type.ts";

/** How the names of transformers' classes end, by task. */
const ENDINGS: Readonly<Record<TaskType, readonly string[]>> = {
  SEQ_CLS: ["ForSequenceClassification"],
  SEQ_2_SEQ_LM: ["ForConditionalGeneration"],
  CAUSAL_LM: ["ForCausalLM", "LMHeadModel"],
  TOKEN_CLS: ["ForTokenClassification"],
  QUESTION_ANS: ["ForQuestionAnswering"],
  FEATURE_EXTRACTION: ["Model"],
};

/** The tasks that a family has models for, the usual one first. */
export function tasksOf({ heads }: Pick<Architecture, "heads">): readonly TaskType[] {
  return Object.keys(heads) as TaskType[];
}

/**
 * What a model is for: by the class that its config names, where the family has models for that, else
 * what is usual for the family.
 */
export function taskOf(architecture: Architecture, config: ModelConfig): TaskType {
  const [name] = [config.architectures].flat();
  const tasks = tasksOf(architecture);
  return tasks.find((task) => ENDINGS[task].some((end) => String(name).endsWith(end))) ?? tasks[0];
}

/**
 * A config of a model for a task and so many classes: it names the class of transformers that it
 * then is, and the classes.
 *
 * @throws {UnsupportedError} `TASK_UNSUPPORTED` where the family has no model for the task.
 */
export function configFor(
  architecture: Architecture,
  config: ModelConfig,
  options: {
    readonly taskType?: TaskType;
    readonly numLabels?: number;
    readonly labelNames?: readonly string[];
    readonly problemType?: string;
  },
): ModelConfig {
  const { taskType, numLabels, problemType } = options;
  const tasks = tasksOf(architecture);
  if (taskType && !tasks.includes(taskType)) {
    throw new UnsupportedError(
      "TASK_UNSUPPORTED",
      `A ${architecture.name} model cannot be made for the task ${taskType}; it can for ${
        tasks.join(", ")
      }.`,
      { taskType, tasks },
    );
  }
  const [named] = [config.architectures].flat();
  const change: Record<string, unknown> = {};
  if (taskType && typeof named === "string" && taskOf(architecture, config) !== taskType) {
    change.architectures = [classFor(named, taskType)];
  }
  if (problemType !== undefined) change.problem_type = problemType;
  const labels = options.labelNames ??
    (numLabels && Array.from({ length: numLabels }, (_, i) => `LABEL_${i}`));
  if (labels) {
    change.id2label = Object.fromEntries(labels.map((label, i) => [i, label]));
    change.label2id = Object.fromEntries(labels.map((label, i) => [label, i]));
    change.num_labels = undefined;
  }
  return Object.keys(change).length ? { ...config, ...change } : config;
}

/** The class of transformers for another task than that of a class. */
function classFor(name: string, task: TaskType): string {
  const family = name.replace(/(For[A-Z]\w*|LMHeadModel|Model)$/, "");
  const [first, last = first] = ENDINGS[task];
  return family + (family === "GPT2" ? last : first);
}
