/**
 * `forward`: one batch through a model.
 *
 * @module
 */
import { compileWith, type Executable } from "../device/device.ts";
import type { TaskType } from "../model/task-type.ts";
import { remembered } from "../tensor/computed.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  batchInputs,
  batchKey,
  type ForwardInputs,
  labelValues,
  objectiveOf,
  prepareBatch,
  traceShape,
} from "./batch.ts";
import { type AnyModel, baseOf } from "./peft-model.ts";
import { type TracedModel, traceModel } from "./trace-model.ts";
import { tracePenalty } from "./training-rule.ts";

/** What {@link forward} gives. */
export interface ForwardOutputs {
  /** Scores of the next token [B, T, V], f32; of what else the model's task is about. */
  readonly logits: Tensor;
  /** Output of the last norm [B, T, D], f32. */
  readonly lastHiddenState: Tensor;
  /** Output of an encoder beside a decoder [B, T, D], f32. */
  readonly encoderLastHiddenState?: Tensor;
  /** What a pooler makes of the first token [B, D], f32. */
  readonly poolerOutput?: Tensor;
  /** Scores of each token to be an answer's first [B, T], f32, in place of logits. */
  readonly startLogits?: Tensor;
  /** Scores of each token to be an answer's last [B, T], f32, in place of logits. */
  readonly endLogits?: Tensor;
  /** Mean loss over the labels that count, where labels were given, and penalties of methods. */
  readonly loss?: number;
}

/** The outputs of each task, beside `lastHiddenState` and `loss`. */
export interface TaskOutputs {
  /** Scores of classes [B, C]. */
  readonly SEQ_CLS: Pick<ForwardOutputs, "logits" | "poolerOutput">;
  /** Scores of the decoder's next token [B, U, V], and the output of the encoder [B, T, D]. */
  readonly SEQ_2_SEQ_LM: Required<Pick<ForwardOutputs, "logits" | "encoderLastHiddenState">>;
  /** Scores of the next token [B, T, V]. */
  readonly CAUSAL_LM: Pick<ForwardOutputs, "logits">;
  /** Scores of the classes of tokens [B, T, C]. */
  readonly TOKEN_CLS: Pick<ForwardOutputs, "logits">;
  /** Scores of each token to be an answer's first and last [B, T]. */
  readonly QUESTION_ANS: Required<Pick<ForwardOutputs, "startLogits" | "endLogits">>;
  /** What else a body gives, where it has it. */
  readonly FEATURE_EXTRACTION: Pick<ForwardOutputs, "poolerOutput" | "encoderLastHiddenState">;
}

/** What {@link forward} gives for a model whose type says its task; {@link ForwardOutputs} where it does not. */
export type ForwardOutputsOf<T extends TaskType> = TaskType extends T ? ForwardOutputs
  : Pick<ForwardOutputs, "lastHiddenState" | "loss"> & TaskOutputs[T];

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
  return remembered(known, key, async () => {
    const traced = make();
    const { program, bindings } = traced;
    return { traced, executable: await compileWith(baseOf(model).device, program, bindings) };
  });
}

/**
 * Runs one batch through a model, with its active adapters if it has any. The type of a model that was
 * loaded with a `taskType` says which outputs there are.
 *
 * @param model A model with or without adapters.
 * @param inputs Token ids and, if wanted, mask, positions and labels.
 * @throws {ValueError} where ids, labels, masks or positions are out of range, for inputs that the
 * model does not take, and where it needs one that is missing.
 * @throws {ShapeError} where rows differ in length.
 * @throws {UnsupportedError} where the method of a row's adapter cannot differ from row to row.
 *
 * @example
 * ```ts
 * import { forward, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * const { logits, loss } = await forward(model, { inputIds: [[1, 2, 3]], labels: [[-100, 2, 3]] });
 * console.log(logits.shape, loss! > 0); // [1, 3, 96] true
 * ```
 */
export async function forward<T extends TaskType = TaskType>(
  model: AnyModel<T>,
  inputs: ForwardInputs,
): Promise<ForwardOutputsOf<T>> {
  const objective = objectiveOf(model);
  const prepared = await prepareBatch(model, inputs, {
    objective,
    mixes: true,
    code: "FORWARD_INPUT",
    of: "forward",
  });
  const { labels, count } = prepared;
  const { traced, executable } = await compileModel(
    model,
    `forward ${batchKey(prepared)}`,
    () =>
      traceModel(model, {
        ...traceShape(prepared),
        outputs(pass, values) {
          if (!labels) return values;
          const loss = objective!.loss(values, labelValues(pass.graph, prepared));
          const penalty = tracePenalty(model, pass);
          return { ...values, loss, ...(penalty && { penalty }) };
        },
      }),
  );
  const { loss, penalty, ...outputs } = await executable.run({
    ...traced.bindings,
    ...batchInputs(model, prepared, { program: executable.program }),
  });
  const given = outputs as unknown as ForwardOutputsOf<T>;
  if (!loss) return given;
  const [sum, more] = await Promise.all([loss.data(), penalty?.data()]);
  const mean = sum[0] as number / Math.max(1, count);
  return { ...given, loss: mean + (more ? more[0] as number : 0) };
}
