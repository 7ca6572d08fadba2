/**
 * `resizeTokenEmbeddings`: a model for more tokens, or for fewer.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { createModelGraph, type ModelGraph, structureOf } from "../model/model-graph.ts";
import { BOOLEAN, checkOptions, type OptionRules, show, WHOLE, wholeFrom } from "../options.ts";
import { castTensor, toFloat32 } from "../tensor/convert.ts";
import { byteLength, isBlockType, sizeOf } from "../tensor/dtype.ts";
import { randomNormal } from "../tensor/random.ts";
import { lazyTensor, type Tensor, tensor } from "../tensor/tensor.ts";
import { initialDeviation } from "./load-model.ts";
import { shareTokenizer } from "./model-tokenizer.ts";

/** How to resize. */
export interface ResizeTokenEmbeddingsOptions {
  /**
   * Whether new rows are the mean of the old ones, so that what the model says of old tokens hardly
   * changes (Hewitt, 2021). True by default, as in transformers, which adds noise of 3e-5 of their
   * deviation that is left out here. Otherwise they are normal with the config's
   * `initializer_range` as standard deviation, and biases 0.
   */
  readonly meanResizing?: boolean;
  /** The number of tokens is rounded up to a multiple of this; 1 by default. */
  readonly padToMultipleOf?: number;
  /** Decides random rows; 0 by default. */
  readonly seed?: number;
}

const OPTIONS: OptionRules<ResizeTokenEmbeddingsOptions> = {
  meanResizing: BOOLEAN,
  padToMultipleOf: wholeFrom(1),
  seed: WHOLE,
};

/**
 * A model whose token embedding, output head and its bias have so many rows (transformers'
 * `resize_token_embeddings`). Rows are added at the end, or taken away there; the others keep their
 * values. What is tied stays so. Block-quantized tables become f32 when they grow.
 *
 * An adapter for new tokens trains their rows: `modulesToSave: ["embed_tokens", "lm_head"]` or
 * `trainableTokenIndices`. `loadAdapter` resizes a base by itself where the file of an adapter has
 * more rows.
 *
 * @param model A base model; put adapters on it afterwards.
 * @param newNumTokens Its number of tokens.
 * @returns The model; the old one stays as it was. Rows are made when the weights are read.
 * @throws {ValueError} for a model with adapters, and for numbers that cannot be.
 *
 * @example
 * ```ts
 * import { forward, resizeTokenEmbeddings, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * const larger = resizeTokenEmbeddings(model, 100, { padToMultipleOf: 8 });
 * const { logits } = await forward(larger, { inputIds: [[1, 2, 99]] });
 * console.log(logits.shape); // [1, 3, 104]
 * ```
 */
export function resizeTokenEmbeddings(
  model: ModelGraph,
  newNumTokens: number,
  options: ResizeTokenEmbeddingsOptions = {},
): ModelGraph {
  checkOptions(options, OPTIONS, { code: "RESIZE_OPTION", of: "resizeTokenEmbeddings" });
  const { meanResizing = true, padToMultipleOf: multiple = 1, seed = 0 } = options;
  if (model?.type !== "model") {
    throw new ValueError(
      "NOT_A_BASE",
      "resizeTokenEmbeddings needs a model without adapters, as their leaves have the sizes of its layers. Resize the base before (getBaseModel gives it), and put adapters onto that.",
    );
  }
  if (!Number.isSafeInteger(newNumTokens) || newNumTokens < 1) {
    throw new ValueError(
      "TOKEN_COUNT",
      `resizeTokenEmbeddings needs a number of tokens, a whole number above 0; found ${
        show(newNumTokens)
      }.`,
    );
  }
  const tokens = Math.ceil(newNumTokens / multiple) * multiple;
  const config = { ...model.config, vocab_size: tokens };
  const { shapes } = structureOf({ ...model, config });
  const std = meanResizing ? undefined : initialDeviation(model);
  let stream = 0;
  const parameters = new Map([...model.parameters].map(([name, old]) => {
    const shape = shapes.get(name)!;
    if (shape.join() === old.shape.join()) return [name, old];
    return [name, withRows(old, shape, { std, seed, stream: stream++ })];
  }));
  const resized = createModelGraph(model.architecture, { ...model, config, parameters });
  shareTokenizer(model.config, resized.config);
  return resized;
}

/** The parameters with a row for each token, and the number of tokens. */
export function tokenRows(model: ModelGraph): {
  readonly tokens: number;
  readonly names: readonly string[];
} {
  const one = structureOf({ ...model, config: { ...model.config, vocab_size: 1 } }).shapes;
  const names = [...model.shapes].filter(([name, shape]) => one.get(name)?.join() !== shape.join())
    .map(([name]) => name);
  return { tokens: names.length ? model.shapes.get(names[0])![0] : 0, names };
}

interface RowInit {
  /** Standard deviation of random rows; without it they are the mean of the others. */
  readonly std: number | undefined;
  readonly seed: number;
  readonly stream: number;
}

/** A tensor with another number of rows. */
function withRows(old: Tensor, shape: readonly number[], init: RowInit): Tensor {
  const count = old.shape[0], rows = shape[0];
  const from = rows > count && isBlockType(old.dtype) ? castTensor(old, "f32") : old;
  const { dtype } = from;
  return lazyTensor({ dtype, shape }, async () => {
    const kept = bytesOf(await from.data());
    const size = byteLength(dtype, shape);
    if (rows <= count) return kept.subarray(0, size);
    const values = await newRows(old, rows - count, init);
    const added = castTensor(tensor(values, { shape: [rows - count, ...shape.slice(1)] }), dtype);
    const all = new Uint8Array(size);
    all.set(kept);
    all.set(bytesOf(await added.data()), kept.length);
    return all;
  });
}

async function newRows(
  old: Tensor,
  count: number,
  { std, seed, stream }: RowInit,
): Promise<Float32Array> {
  const [rows, ...row] = old.shape, width = sizeOf(row);
  const isBias = row.length === 0;
  if (std !== undefined) {
    return isBias ? new Float32Array(count) : randomNormal(count * width, { seed, stream, std });
  }
  const values = await toFloat32(old), sums = new Float64Array(width);
  for (let at = 0; at < values.length;) {
    for (let i = 0; i < width; i++) sums[i] += values[at++];
  }
  const mean = Float32Array.from(sums, (sum) => sum / rows);
  const out = new Float32Array(count * width);
  for (let i = 0; i < count; i++) out.set(mean, i * width);
  return out;
}

function bytesOf(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
