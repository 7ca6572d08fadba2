/**
 * `classify`: what texts are about.
 *
 * @module
 */
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { encodeInputs, type TextRow } from "../io/encode-inputs.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { labelCount, labelNames } from "../model/label-count.ts";
import { FINITE, oneOf, wholeFrom } from "../options.ts";
import { softmax } from "./softmax.ts";
import { type InferenceOptions, likeGiven, listOf, openReader, runRows } from "./run-rows.ts";

/** What is made of a model's scores. */
export type ScoreFunction = "softmax" | "sigmoid" | "none";

/** How to classify. */
export interface ClassifyOptions extends InferenceOptions {
  /** How many labels to give of each text; all by default. */
  readonly topK?: number;
  /** Leaves out labels with a lower score. */
  readonly threshold?: number;
  /**
   * What is made of the model's scores: by default what transformers makes of them, nothing of a
   * regression, a probability of each label by itself where several can hold or there is but one, else
   * probabilities that add up to 1.
   */
  readonly functionToApply?: ScoreFunction;
}

/** A label and how sure the model is of it. */
export interface LabelScore {
  /** Its name in the model's config. */
  readonly label: string;
  /** Its probability; of a regression the number itself. */
  readonly score: number;
}

/**
 * Classifies texts or pairs of texts with a SEQ_CLS model. Texts that are longer than the model takes
 * are refused; `maxLength` cuts them.
 *
 * @param model A model with or without adapters.
 * @param text A text, or `{ text, pair }`; a list of strings in place of a text is its words.
 * @param options See {@link ClassifyOptions}.
 * @returns Labels with scores, the highest first.
 * @throws {UnsupportedError} `TASK_MODEL` for a model of another task.
 * @throws {ValueError} `INFERENCE_OPTION`, `TEXT_LENGTH`, `TEXT_EMPTY`, or for what is no text.
 * @throws {FileError} `TOKENIZER_MISSING`.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, classify, createModel, loadTokenizer } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "bert", vocab_size: 256, hidden_size: 16, intermediate_size: 24,
 *   num_hidden_layers: 1, num_attention_heads: 2, id2label: { 0: "mail", 1: "spam" },
 * }, { device: "cpu", taskType: "SEQ_CLS" });
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const [best] = await classify(model, "Buy now!", { tokenizer });
 * console.log(["mail", "spam"].includes(best.label), best.score >= 0.5); // true true
 * model.device[Symbol.dispose]();
 * ```
 */
export function classify(
  model: AnyModel,
  text: TextRow,
  options?: ClassifyOptions,
): Promise<readonly LabelScore[]>;
/** The same for several texts; results come in their order. */
export function classify(
  model: AnyModel,
  texts: readonly TextRow[],
  options?: ClassifyOptions,
): Promise<readonly (readonly LabelScore[])[]>;
export async function classify(
  model: AnyModel,
  given: TextRow | readonly TextRow[],
  options: ClassifyOptions = {},
): Promise<readonly LabelScore[] | readonly (readonly LabelScore[])[]> {
  const reader = await openReader(model, options, {
    of: "classify",
    task: "SEQ_CLS",
    rules: {
      topK: wholeFrom(1),
      threshold: FINITE,
      functionToApply: oneOf(["softmax", "sigmoid", "none"]),
    },
  });
  const { tokenizer, maxLength, topK, threshold = -Infinity } = reader;
  const { config } = baseOf(model), names = labelNames(config);
  const apply = FUNCTIONS[reader.functionToApply ?? scoreFunction(config)];
  const rows = encodeInputs(listOf(reader, given), { tokenizer, maxLength });
  const outputs = await runRows(reader, rows, {
    key: "logits",
    perToken: false,
    outputs: (_, { logits }) => ({ logits }),
  });
  return likeGiven(
    given,
    outputs.map(({ logits }) =>
      Array.from(apply(logits), (score, i): LabelScore => ({ label: names[i], score }))
        .filter(({ score }) => score >= threshold)
        .sort((a, b) => b.score - a.score)
        .slice(0, topK)
    ),
  );
}

function scoreFunction(config: ModelConfig): ScoreFunction {
  const { problem_type: problem } = config;
  if (problem === "regression") return "none";
  return problem === "multi_label_classification" || labelCount(config) === 1
    ? "sigmoid"
    : "softmax";
}

const FUNCTIONS: Readonly<Record<ScoreFunction, (scores: Float32Array) => Iterable<number>>> = {
  softmax,
  sigmoid: (scores) => Float64Array.from(scores, (x) => 1 / (1 + Math.exp(-x))),
  none: (scores) => scores,
};
