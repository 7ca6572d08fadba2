/**
 * The gradients of one batch, for methods that look at them and for tests.
 *
 * @module
 */
import { trainableLeaves } from "../adapters/leaves.ts";
import type { AnyModel } from "../adapters/peft-model.ts";
import { methodRules } from "../adapters/training-rule.ts";
import { BOOLEAN, checkOptions } from "../options.ts";
import type { Objective } from "../tasks/objective.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { type AnyBatch, OBJECTIVE, prepareTraining, trainingObjective } from "./batch.ts";
import { nothingToTrain, packLeaves } from "./packing.ts";
import { openSession } from "./session.ts";

/**
 * Mean loss over a batch's labels and its gradient for each of the model's trainable leaves.
 *
 * @param model A model with or without adapters; without dropout.
 * @param batch One batch.
 * @param options The objective; that of the model's task by default. `ofStep`: whether gradients are
 * those that a step of training goes by, as OSF projects them; false by default.
 * @throws {TrainingError} where no leaf is trainable.
 * @throws {ValueError} `TRAIN_OPTIONS` for another option, or what is no objective.
 * @returns The loss, and gradients under the names that `trainableLeaves` gives.
 *
 * @example
 * ```ts
 * import { computeGradients, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj"] }));
 * const { gradients } = await computeGradients(model, { inputIds: [[1, 2, 3]] });
 * console.log(gradients.get("a0.model.layers.0.self_attn.q_proj.lora_B")!.shape); // [32, 4]
 * ```
 */
export async function computeGradients(
  model: AnyModel,
  batch: AnyBatch,
  options: { readonly objective?: Objective; readonly ofStep?: boolean } = {},
): Promise<{ readonly loss: number; readonly gradients: ReadonlyMap<string, Tensor> }> {
  const leaves = trainableLeaves(model);
  if (leaves.size === 0) throw nothingToTrain();
  checkOptions(options, { objective: OBJECTIVE, ofStep: BOOLEAN }, {
    code: "TRAIN_OPTIONS",
    of: "computeGradients",
  });
  const objective = trainingObjective(model, options.objective);
  using session = await openSession(model, leaves, {
    objective,
    packing: packLeaves(leaves),
    rules: methodRules(model),
    ofStep: options.ofStep,
  });
  const { loss, ...found } = await session.gradients(
    await prepareTraining(model, batch, objective),
  );
  return {
    loss: (await loss.data())[0] as number,
    // What has no elements is in no program.
    gradients: new Map([...leaves].map((
      [name, { shape }],
    ) => [name, found[`grad.${name}`] ?? tensor(new Float32Array(0), { shape })])),
  };
}
