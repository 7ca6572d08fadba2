/**
 * `updateSignature` and its like: a model with adapters that shows what its base takes and gives.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { BatchInput } from "../model/batch-input.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { type FunctionSignature, type ParameterSignature, withText } from "../model/signature.ts";
import { show } from "../options.ts";
import { taskFor } from "../tasks/mod.ts";
import { type ForwardInputs, methodInputs, modelInputs } from "./batch.ts";
import { type AnyModel, baseOf, type PeftModel } from "./peft-model.ts";

/** Inputs of `forward` and options of `generate` that only models with adapters have. */
export type AdapterInput = "adapterNames" | "taskIds" | "noise";

/** All of them. */
export const ADAPTER_INPUTS: readonly string[] = [
  "adapterNames",
  "taskIds",
  "noise",
] satisfies AdapterInput[];

/** A model whose `forward` shows the signature of its base. A base always does. */
export type WithForwardSignature<M extends AnyModel> = M extends PeftModel
  ? M & { readonly signatures: { readonly forward: "base" } }
  : M;

/** A model whose `generate` shows the signature of its base. A base always does. */
export type WithGenerateSignature<M extends AnyModel> = M extends PeftModel
  ? M & { readonly signatures: { readonly generate: "base" } }
  : M;

/** What {@link updateSignature} gives for a choice of functions. */
export type WithSignature<M extends AnyModel, W extends SignatureChoice> = W extends "forward"
  ? WithForwardSignature<M>
  : W extends "generate" ? WithGenerateSignature<M>
  : WithForwardSignature<M> & WithGenerateSignature<M>;

/** Functions whose signature can be updated. */
export type SignatureChoice = "forward" | "generate" | "all";

/** What `forward` takes for a model, as far as its type says: see {@link updateForwardSignature}. */
export type ForwardInputsOf<M extends AnyModel> = M extends
  ModelGraph | { readonly signatures: { readonly forward: "base" } }
  ? Omit<ForwardInputs, AdapterInput>
  : ForwardInputs;

const ADAPTER_NAMES: ParameterSignature = {
  name: "adapterNames",
  type: "readonly string[]",
  optional: true,
  doc:
    'The adapter of each row, active or not, `"__base__"` for none; without it all rows get the active adapters.',
};

const LOSS: ParameterSignature = {
  name: "loss",
  type: "number",
  optional: true,
  doc: "Mean loss over the labels that count, where labels were given.",
};

/**
 * The model, showing for `forward` the inputs and results of its base, in place of those that
 * models with adapters have in general: to tools by `describeSignature`, to the compiler by
 * {@link ForwardInputsOf}. What `forward` does stays as it is.
 *
 * PEFT changes a model only where it was made without a task type, as its classes for tasks declare
 * a signature of their own; here there is one kind of model, and the call works for all of them.
 *
 * @param model A model with adapters; it stays as it is. A base, and a model that shows this
 * signature already, are given back themselves.
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { describeSignature, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { updateForwardSignature } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = updateForwardSignature(getPeftModel(base, loraConfig()));
 * console.log(describeSignature(model).parameters.map(({ name }) => name));
 * // ["inputIds", "attentionMask", "positionIds", "labels"]
 * ```
 */
export function updateForwardSignature<M extends AnyModel>(model: M): WithForwardSignature<M> {
  return showBase(model, "forward") as WithForwardSignature<M>;
}

/**
 * The model, showing for `generate` the options of its base: {@link updateForwardSignature} for the
 * other function.
 *
 * @param model A model with adapters; it stays as it is. A base, and a model that shows this
 * signature already, are given back themselves.
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { describeSignature, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { updateGenerateSignature } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = updateGenerateSignature(getPeftModel(base, loraConfig()));
 * console.log(describeSignature(model, "generate").parameters[0].name); // prompt
 * ```
 */
export function updateGenerateSignature<M extends AnyModel>(model: M): WithGenerateSignature<M> {
  return showBase(model, "generate") as WithGenerateSignature<M>;
}

/**
 * The model, showing the signatures of its base for `forward`, `generate` or both: see
 * {@link updateForwardSignature}.
 *
 * @param model A model with adapters; it stays as it is. A base, and a model that shows these
 * signatures already, are given back themselves.
 * @param method Which; `"all"` by default.
 * @throws {ValueError} `SIGNATURE_METHOD` for another word, `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { describeSignature, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { updateSignature } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = updateSignature(getPeftModel(base, loraConfig()), "all");
 * console.log(updateSignature(model, "forward") === model); // true: nothing is left to do
 * console.log(describeSignature(model).text);
 * // function forward(model: AnyModel, inputs: { … }): Promise<ForwardOutputs>; …
 * ```
 */
export function updateSignature<M extends AnyModel, W extends SignatureChoice = "all">(
  model: M,
  method: W = "all" as W,
): WithSignature<M, W> {
  const choice: SignatureChoice = method;
  switch (choice) {
    case "forward":
    case "generate":
      return showBase(model, choice) as WithSignature<M, W>;
    case "all":
      return showBase(showBase(model, "forward"), "generate") as WithSignature<M, W>;
    default:
      throw new ValueError(
        "SIGNATURE_METHOD",
        `The method ${show(choice)} is not supported; choose one of forward, generate, all.`,
        { method: choice },
      );
  }
}

function showBase(model: AnyModel, name: "forward" | "generate"): AnyModel {
  baseOf(model);
  if (model.type === "model" || model.signatures?.[name] === "base") return model;
  return { ...model, signatures: { ...model.signatures, [name]: "base" } };
}

/** Whether a function of a model shows what its base takes: always so for a base. */
export function showsBase(model: AnyModel, name: "forward" | "generate"): boolean {
  baseOf(model);
  return model.type === "model" || model.signatures?.[name] === "base";
}

/** The signature of `forward` for a model: its base's, or that with what adapters add. */
export function forwardSignature(model: AnyModel): FunctionSignature {
  const base = baseOf(model), { name } = base.architecture;
  const own = showsBase(model, "forward");
  const { objective, outputs } = taskFor(base);
  const inputs = [...modelInputs(base), ...objective?.inputs(base.config) ?? []].map(described);
  return withText({
    name: "forward",
    doc: own
      ? `Runs one batch through a model of the family ${name}.`
      : "Runs one batch through a model with its active adapters, and any base underneath.",
    parameters: own ? inputs : [...inputs, ...methodInputs(model).map(described), ADAPTER_NAMES],
    returns: {
      type: "Promise<ForwardOutputs>",
      fields: [
        ...outputs.map((output) => ({ ...output, type: "Tensor", optional: false })),
        ...objective ? [LOSS] : [],
      ],
    },
  }, { record: "inputs", returned: "ForwardOutputs" });
}

function described({ name, axes, doc, optional, otherwise }: BatchInput): ParameterSignature {
  const type = ["Tensor", "readonly number[] | Tensor", "TokenBatch"][axes.length] ?? "Tensor";
  return { name, type, optional: optional === true || otherwise !== undefined, doc };
}
