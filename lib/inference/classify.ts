/**
 * `classify`: what texts are about, and what is in images.
 *
 * @module
 */
import { forward } from "../adapters/forward.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { encodeInputs, type TextRow } from "../io/encode-inputs.ts";
import { type ImageProcessor, processImages } from "../io/image-processor.ts";
import { imageProcessorOf } from "../io/model-tokenizer.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { labelCount, labelNames } from "../model/label-count.ts";
import { readsImages } from "../model/model-graph.ts";
import { FINITE, oneOf, wholeFrom } from "../options.ts";
import { softmax } from "./softmax.ts";
import { toFloat32 } from "../tensor/convert.ts";
import {
  checkVerb,
  type InferenceOptions,
  likeGiven,
  listOf,
  openReader,
  runRows,
} from "./run-rows.ts";

/** What is made of a model's scores. */
export type ScoreFunction = "softmax" | "sigmoid" | "none";

/** How to classify. */
export interface ClassifyOptions extends InferenceOptions {
  /** Prepares images; the one that lies beside the model's weights by default. */
  readonly imageProcessor?: ImageProcessor;
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
 * Classifies texts, pairs of texts or images with a SEQ_CLS model. Texts that are longer than the
 * model takes are refused; `maxLength` cuts them.
 *
 * @param model A model with or without adapters.
 * @param text A text, or `{ text, pair }`; a list of strings in place of a text is its words. For a
 * model of images the path of one, or the contents of its file.
 * @param options See {@link ClassifyOptions}.
 * @returns Labels with scores, the highest first.
 * @throws {UnsupportedError} `TASK_MODEL` for a model of another task.
 * @throws {ValueError} `INFERENCE_OPTION`, `TEXT_LENGTH`, `TEXT_EMPTY`, or for what is no text.
 * @throws {FileError} `TOKENIZER_MISSING`, `PROCESSOR_MISSING`, or for an image that cannot be read.
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
  text: TextRow | Uint8Array,
  options?: ClassifyOptions,
): Promise<readonly LabelScore[]>;
/** The same for several; results come in their order. */
export function classify(
  model: AnyModel,
  texts: readonly (TextRow | Uint8Array)[],
  options?: ClassifyOptions,
): Promise<readonly (readonly LabelScore[])[]>;
export async function classify(
  model: AnyModel,
  given: TextRow | Uint8Array | readonly (TextRow | Uint8Array)[],
  options: ClassifyOptions = {},
): Promise<readonly LabelScore[] | readonly (readonly LabelScore[])[]> {
  const { topK, threshold = -Infinity } = options;
  const { config } = baseOf(model), names = labelNames(config);
  const scores = readsImages(baseOf(model)) ? imageScores : textScores;
  const found = await scores(model, given as never, options);
  const apply = FUNCTIONS[options.functionToApply ?? scoreFunction(config)];
  return likeGiven(
    given,
    found.map((logits) =>
      Array.from(apply(logits), (score, i): LabelScore => ({ label: names[i], score }))
        .filter(({ score }) => score >= threshold)
        .sort((a, b) => b.score - a.score)
        .slice(0, topK)
    ),
  );
}

const VERB = {
  of: "classify",
  task: "SEQ_CLS",
  rules: {
    topK: wholeFrom(1),
    threshold: FINITE,
    functionToApply: oneOf(["softmax", "sigmoid", "none"]),
    imageProcessor: null,
  },
} as const;

async function textScores(
  model: AnyModel,
  given: TextRow | readonly TextRow[],
  options: ClassifyOptions,
): Promise<readonly Float32Array[]> {
  const reader = await openReader(model, options, VERB), { tokenizer, maxLength } = reader;
  const rows = encodeInputs(listOf(reader, given), { tokenizer, maxLength });
  const outputs = await runRows(reader, rows, {
    key: "logits",
    perToken: false,
    outputs: (_, { logits }) => ({ logits }),
  });
  return outputs.map(({ logits }) => logits);
}

async function imageScores(
  model: AnyModel,
  given: string | Uint8Array | readonly (string | Uint8Array)[],
  options: ClassifyOptions,
): Promise<readonly Float32Array[]> {
  checkVerb(model, options, VERB);
  const images = listOf(options, given), { batchSize = 32, adapterNames, taskIds } = options;
  const processor = options.imageProcessor ?? await imageProcessorOf(baseOf(model));
  const found: Float32Array[] = [];
  for (let at = 0; at < images.length; at += batchSize) {
    options.signal?.throwIfAborted();
    const pixelValues = await processImages(images.slice(at, at + batchSize), processor);
    const { logits } = await forward(model, {
      pixelValues,
      adapterNames: adapterNames?.slice(at, at + batchSize),
      taskIds: taskIds?.slice(at, at + batchSize),
    });
    const data = await toFloat32(logits), [rows, classes] = logits.shape;
    for (let row = 0; row < rows; row++) {
      found.push(data.slice(row * classes, (row + 1) * classes));
    }
  }
  return found;
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
