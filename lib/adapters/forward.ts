/**
 * `forward`: one batch through a model.
 *
 * @module
 */
import { compileWith, type Executable } from "../device/device.ts";
import { div, greaterEqual, max } from "../ops/binary.ts";
import { cast } from "../ops/cast.ts";
import { crossEntropy, IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { input } from "../ops/input.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { checkOptions, type OptionRules } from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { mixedBatch, mixedKey } from "./mixed-batch.ts";
import { type AnyModel, baseOf, virtualTokens } from "./peft-model.ts";
import { checkIds, checkPositions, partOf, toInts, type TokenBatch } from "./token-batch.ts";
import { runInputs, type TracedModel, traceModel } from "./trace-model.ts";

/** What {@link forward} takes. */
export interface ForwardInputs {
  /** Token ids [B, T], each in [0, vocabulary size). */
  readonly inputIds: TokenBatch;
  /** 1 for tokens, 0 for padding on either side [B, T]; all ones by default. */
  readonly attentionMask?: TokenBatch;
  /**
   * Position of each token [B, T]; 0, 1, 2 … by default, whatever the mask, as in transformers.
   * Virtual tokens of an adapter come before them.
   */
  readonly positionIds?: TokenBatch;
  /** Token ids to predict [B, T], −100 where nothing is; they are shifted inside. Gives `loss`. */
  readonly labels?: TokenBatch;
  /**
   * The adapter of each row, active or not, `"__base__"` for none; without it all rows get the
   * active adapters.
   */
  readonly adapterNames?: readonly string[];
}

const INPUTS: OptionRules<ForwardInputs> = {
  inputIds: null,
  attentionMask: null,
  positionIds: null,
  labels: null,
  adapterNames: null,
};

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
      return {
        traced,
        executable: await compileWith(baseOf(model).device, traced.program, traced.bindings),
      };
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
 * @throws {ValueError} where ids, labels, masks or positions are out of range, and for inputs that
 * it does not take.
 * @throws {ShapeError} where rows differ in length.
 * @throws {UnsupportedError} where the method of a row's adapter cannot differ from row to row.
 *
 * @example
 * ```ts
 * import { createModel, forward } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = model.device;
 * const { logits, loss } = await forward(model, { inputIds: [[1, 2, 3]], labels: [[-100, 2, 3]] });
 * console.log(logits.shape, loss! > 0); // [1, 3, 96] true
 * ```
 */
export async function forward(model: AnyModel, inputs: ForwardInputs): Promise<ForwardOutputs> {
  checkOptions(inputs, INPUTS, { code: "FORWARD_INPUT", of: "forward" });
  const { data: ids, shape } = await toInts("inputIds", inputs.inputIds);
  const [batch, length] = shape;
  checkIds(model, ids);
  const keySegments = await partOf("attentionMask", inputs.attentionMask, {
    shape,
    from: 0,
    to: 1,
  }) ?? new Int32Array(ids.length).fill(1);
  const own = await partOf("positionIds", inputs.positionIds, { shape, from: 0 }) ??
    Int32Array.from(ids, (_, i) => i % length);
  const mixed = mixedBatch(model, inputs.adapterNames, batch);
  const virtual = mixed ? 0 : virtualTokens(model);
  const positions = own.map((position) => position + virtual);
  checkPositions(model, positions);
  const labels = await partOf("labels", inputs.labels, { shape, from: IGNORED_LABEL });
  if (labels) checkIds(model, labels, { labels: true });
  const { traced, executable } = await compileModel(
    model,
    `forward ${batch} ${length} ${labels !== undefined} ${mixedKey(mixed)}`,
    () =>
      traceModel(model, {
        batch,
        length,
        mixed: mixed?.names,
        outputs: (pass, values) => {
          if (!labels) return values;
          const shifted = input(pass.graph, "labels", { shape: [batch, length], dtype: "i32" });
          return { ...values, loss: causalLoss(values.logits, shifted).mean };
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
      rowAdapters: mixed?.rows,
      sequenceLength: virtual + length,
    }),
  };
  if (labels) data.labels = tensor(shiftLabels(labels, length), { shape: [batch, length] });
  const { logits, lastHiddenState, loss } = await executable.run(data);
  return labels
    ? { logits, lastHiddenState, loss: (await loss.data())[0] as number }
    : { logits, lastHiddenState };
}

/**
 * Labels moved one to the left within each row, so that position t holds what it has to predict;
 * the last position predicts nothing.
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
 * @returns The sum over labels that count, how many they are, and their mean (0 where there are
 * none), all of shape [].
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
