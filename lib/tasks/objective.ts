/**
 * What a model can be trained for: which labels a batch has, what of them counts, and the loss.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import type { BatchInput } from "../model/batch-input.ts";
import type { TaskType } from "../model/task-type.ts";
import type { Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** One part of a batch on the host, checked and in row-major order. */
export interface HostPart {
  /** Its elements. */
  readonly data: Int32Array<ArrayBuffer> | Float32Array<ArrayBuffer>;
  /** Its shape. */
  readonly shape: readonly number[];
}

/** A batch on the host, checked. */
export interface HostBatch {
  /** Rows. */
  readonly rows: number;
  /** Tokens in a row; 1 where rows are images. */
  readonly length: number;
  /** Virtual tokens that adapters embed before those of each row: as many more rows in outputs. */
  readonly virtual: number;
  /** Token ids [B, T]; zeros where rows are images. */
  readonly ids: Int32Array<ArrayBuffer>;
  /** Sample that each token belongs to, 0 for padding [B, T]. */
  readonly segments: Int32Array<ArrayBuffer>;
  /** Whether rows hold several samples. */
  readonly packed: boolean;
  /** All parts that the caller gave, and what a decoder beside an encoder reads. */
  readonly parts: Readonly<Record<string, HostPart>>;
  /** Whether labels are needed, as in training. */
  readonly learns: boolean;
  /** The model's config. */
  readonly config: ModelConfig;
}

/** What programs get of an objective's parts. */
export interface Targets {
  /** Labels; none where the caller gave none, and none are needed. */
  readonly labels?: Readonly<Record<string, Tensor>>;
  /** How much counts: the loss is the mean over so many. */
  readonly count: number;
}

/** What was measured, by name. */
export type Metrics = Readonly<Record<string, number>>;

/** What an evaluation has of one batch. */
export interface EvaluatedBatch {
  /** The outputs that the objective looks at, or what it has `measured`. */
  readonly outputs: Readonly<Record<string, HostPart>>;
  /** The labels, as {@link Objective.prepare} gave them. */
  readonly labels: Readonly<Record<string, HostPart>>;
  /** Virtual tokens that stand before those of each row. */
  readonly virtual: number;
}

/** Traced values by name. */
export type Values = Readonly<Record<string, Value>>;

/** What training makes small, and evaluation measures. */
export interface Objective {
  /** Its name. */
  readonly name: string;
  /** The model's outputs that it looks at. */
  readonly outputs: readonly string[];
  /**
   * The parts of a batch that it takes beside those of the model.
   *
   * @param config The model's.
   * @param given What a caller gave, whose form may decide.
   */
  inputs(config: ModelConfig, given?: Readonly<Record<string, unknown>>): readonly BatchInput[];
  /** Makes labels of what the caller gave: shifts them, fills in what is left out, counts. */
  prepare(batch: HostBatch): Targets;
  /** Traces the sum of the losses of a batch, shape [], from the model's outputs and the labels. */
  loss(outputs: Values, labels: Values): Value;
  /** Traces what metrics are made of; the outputs that it looks at by default. */
  measured?(outputs: Values, labels: Values): Values;
  /** What else is measured, over a whole evaluation. */
  metrics?(batches: readonly EvaluatedBatch[], config: ModelConfig): Metrics;
}

/** One output of a model, for tools. */
export interface OutputField {
  /** Its name. */
  readonly name: string;
  /** What it is. */
  readonly doc: string;
}

/** One of the tasks that models are for. */
export interface Task {
  /** Its name in configs. */
  readonly type: TaskType;
  /** What `forward` gives, beside `loss`. */
  readonly outputs: readonly OutputField[];
  /** Whether models of the task write text. */
  readonly generates: boolean;
  /**
   * The part of a batch that a decoder beside an encoder reads, one to the right, where the batch
   * does not say what else.
   */
  readonly decoderReads?: "labels" | "inputIds";
  /** What they are trained for; `null` where the task has no labels. */
  readonly objective: Objective | null;
  /**
   * Names of heads, of which a model has one at most. It is trained and saved with the adapters of
   * configs that name the task, as in PEFT.
   */
  readonly heads?: readonly string[];
}

/** The output of a model's body. */
export const LAST_HIDDEN_STATE: OutputField = {
  name: "lastHiddenState",
  doc: "Output of the last norm [B, T, D], f32.",
};

/** The error for a batch without what a model is to learn from. */
export function targetsMissing(name: string, doc: string): ValueError {
  return new ValueError("LABELS_MISSING", `A batch to learn from needs ${name}: ${doc}`, { name });
}
