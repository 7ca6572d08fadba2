/**
 * `forward`: one batch through a model.
 *
 * @module
 */
import type { Executable } from "../device/device.ts";
import { ShapeError, ValueError } from "../errors.ts";
import { div, max } from "../ops/binary.ts";
import { cast } from "../ops/cast.ts";
import { crossEntropy, IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { greaterEqual } from "../ops/binary.ts";
import { input } from "../ops/input.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { type AnyModel, baseOf } from "./peft-model.ts";
import { runInputs, type TracedModel, traceModel } from "./trace-model.ts";

/** A batch: rows of equal length, as numbers or as a tensor [B, T] of any integer type. */
export type TokenBatch = readonly (readonly number[])[] | Tensor;

/** What {@link forward} takes. */
export interface ForwardInputs {
  /** Token ids [B, T], each in [0, vocabulary size). */
  readonly inputIds: TokenBatch;
  /** 1 for tokens, 0 for padding on either side [B, T]; all ones by default. */
  readonly attentionMask?: TokenBatch;
  /** Position of each token [B, T]; 0, 1, 2 … by default, whatever the mask, as in transformers. */
  readonly positionIds?: TokenBatch;
  /** Token ids to predict [B, T], −100 where nothing is; they are shifted inside. Gives `loss`. */
  readonly labels?: TokenBatch;
}

/** What {@link forward} gives. */
export interface ForwardOutputs {
  /** Scores of the next token [B, T, V], f32. */
  readonly logits: Tensor;
  /** Output of the last norm [B, T, D], f32. */
  readonly lastHiddenState: Tensor;
  /** Mean cross-entropy over the labels that count, where labels were given. */
  readonly loss?: number;
}

interface Compiled {
  readonly traced: TracedModel;
  readonly executable: Executable;
}

// A model is a value, so what was compiled for it stays right for as long as it lives.
const compiled = new WeakMap<AnyModel, Map<string, Promise<Compiled>>>();

/** The traced and compiled program of a model for a batch size, made once. */
export function compileModel(
  model: AnyModel,
  key: string,
  make: () => TracedModel,
): Promise<Compiled> {
  let known = compiled.get(model);
  if (!known) compiled.set(model, known = new Map());
  let found = known.get(key);
  if (!found) {
    found = (async () => {
      const traced = make();
      return { traced, executable: await baseOf(model).device.compile(traced.program) };
    })();
    found.catch(() => known.delete(key));
    known.set(key, found);
  }
  return found;
}

/**
 * Runs one batch through a model, with its active adapters if it has any.
 *
 * @param model A model with or without adapters.
 * @param inputs Token ids and, if wanted, mask, positions and labels.
 * @throws {ValueError} where ids are out of range; {ShapeError} where rows differ in length.
 *
 * @example
 * ```ts ignore
 * import { forward, loadModel } from "@graft/peft";
 * const model = await loadModel("path/to/model");
 * const { logits } = await forward(model, { inputIds: [[1, 2, 3]] });
 * console.log(logits.shape); // [1, 3, vocabulary]
 * ```
 */
export async function forward(model: AnyModel, inputs: ForwardInputs): Promise<ForwardOutputs> {
  const { data: ids, shape } = await toInts("inputIds", inputs.inputIds);
  const [batch, length] = shape;
  checkIds(model, ids);
  const same = async (name: string, given: TokenBatch | undefined, otherwise: () => Int32Array) => {
    if (!given) return otherwise();
    const { data, shape: other } = await toInts(name, given);
    if (other.join() !== shape.join()) {
      throw new ShapeError(
        "BATCH_SHAPE",
        `${name} has shape [${other}], but inputIds has [${shape}].`,
      );
    }
    return data;
  };
  const keySegments = await same(
    "attentionMask",
    inputs.attentionMask,
    () => new Int32Array(ids.length).fill(1),
  );
  const positions = await same(
    "positionIds",
    inputs.positionIds,
    () => Int32Array.from(ids, (_, i) => i % length),
  );
  const withLabels = inputs.labels !== undefined;
  const { traced, executable } = await compileModel(
    model,
    `forward ${batch} ${length} ${withLabels}`,
    () =>
      traceModel(model, {
        batch,
        length,
        outputs: (pass, values) => {
          if (!withLabels) return values;
          const labels = input(pass.graph, "labels", { shape: [batch, length], dtype: "i32" });
          return { ...values, loss: causalLoss(values.logits, labels).mean };
        },
      }),
  );
  const data: Record<string, Tensor> = {
    ...traced.bindings,
    ...runInputs(model, {
      program: executable.program,
      batch,
      length,
      ids,
      positions,
      keySegments,
    }),
  };
  if (withLabels) {
    const labels = await same("labels", inputs.labels, () => ids);
    checkIds(model, labels.map((l) => l === IGNORED_LABEL ? 0 : l));
    data.labels = tensor(shiftLabels(labels, length), { shape: [batch, length] });
  }
  const { logits, lastHiddenState, loss } = await executable.run(data);
  return withLabels
    ? { logits, lastHiddenState, loss: (await loss.data())[0] as number }
    : { logits, lastHiddenState };
}

/**
 * Labels moved one to the left within each row, so that position t holds what it has to predict; the last position predicts nothing.
 *
 * @param labels Row-major [B, T].
 * @param length T.
 */
export function shiftLabels(labels: Int32Array, length: number): Int32Array {
  return labels.map((_, i) => i % length === length - 1 ? IGNORED_LABEL : labels[i + 1]);
}

/**
 * Next-token cross-entropy, from logits [B, T, V] and shifted labels [B, T].
 *
 * @returns The sum over labels that count, how many they are, and their mean (0 where there are none), all of shape [].
 */
export function causalLoss(
  logits: Value,
  shifted: Value,
): { readonly total: Value; readonly count: Value; readonly mean: Value } {
  const v = logits.shape[logits.shape.length - 1];
  const labels = reshape(shifted, [-1]);
  const total = sum(crossEntropy(reshape(logits, [-1, v]), labels));
  const count = sum(cast(greaterEqual(labels, 0), "f32"));
  return { total, count, mean: div(total, max(count, 1)) };
}

/**
 * Checks that token ids exist in the model's vocabulary.
 *
 * @throws {ValueError} that names the first id that does not, and where it is.
 */
export function checkIds(model: AnyModel, ids: ArrayLike<number>): void {
  const { architecture, config } = baseOf(model);
  const size = architecture.vocabularySize(config);
  for (let i = 0; i < ids.length; i++) {
    if (!(ids[i] >= 0 && ids[i] < size)) {
      throw new ValueError(
        "TOKEN_ID_RANGE",
        `The token id ${ids[i]} at index ${i} is outside the vocabulary of ${size}; ` +
          `is the tokenizer that of this model?`,
        { id: ids[i], index: i, vocabularySize: size },
      );
    }
  }
}

/** A batch as row-major integers and its shape [B, T]. */
export async function toInts(
  name: string,
  batch: TokenBatch,
): Promise<{ readonly data: Int32Array; readonly shape: readonly [number, number] }> {
  if ("dtype" in batch) {
    const values = await batch.data();
    if (batch.shape.length !== 2 || values.length === 0) {
      throw new ShapeError(
        "BATCH_SHAPE",
        `${name} needs shape [B, T] with B and T above 0, not [${batch.shape}].`,
      );
    }
    return {
      data: Int32Array.from(values as Int32Array, Number),
      shape: [batch.shape[0], batch.shape[1]],
    };
  }
  const length = batch[0]?.length ?? 0;
  const odd = batch.findIndex((row) => row.length !== length);
  if (batch.length === 0 || length === 0 || odd >= 0) {
    throw new ShapeError(
      "BATCH_SHAPE",
      odd >= 0
        ? `${name} needs rows of equal length: row 0 has ${length}, row ${odd} has ${
          batch[odd].length
        }. Pad them and give an attentionMask.`
        : `${name} is empty.`,
    );
  }
  return { data: Int32Array.from(batch.flat()), shape: [batch.length, length] };
}
