/**
 * The gradients of one batch, for methods that look at them and for tests.
 *
 * @module
 */
import { trainableLeaves } from "../adapters/leaves.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { batchInputs, prepareBatch, type TrainingBatch } from "./batch.ts";
import { nothingToTrain, packLeaves, toVector } from "./packing.ts";
import { STATE, traceStep } from "./step-program.ts";

/**
 * Mean loss over a batch's labels and its gradient for each of the model's trainable leaves.
 *
 * @param model A model with or without adapters; without dropout.
 * @param batch One batch.
 * @throws {TrainingError} where no leaf is trainable.
 * @returns The loss, and gradients under the names that `trainableLeaves` gives.
 *
 * @example
 * ```ts
 * import { computeGradients, createModel, getPeftModel, loraConfig } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj"] }));
 * const { gradients } = await computeGradients(model, { inputIds: [[1, 2, 3]] });
 * console.log(gradients.get("a0.model.layers.0.self_attn.q_proj.lora_B")!.shape); // [32, 4]
 * ```
 */
export async function computeGradients(
  model: AnyModel,
  batch: TrainingBatch,
): Promise<{ readonly loss: number; readonly gradients: ReadonlyMap<string, Tensor> }> {
  const { device } = baseOf(model);
  const leaves = trainableLeaves(model);
  if (leaves.size === 0) throw nothingToTrain();
  const packing = packLeaves(leaves);
  const prepared = await prepareBatch(model, batch);
  const { program, bindings } = traceStep(model, {
    batch: prepared.batch,
    length: prepared.length,
    packing,
    dropout: false,
    kind: "gradients",
  });
  const executable = await device.compile(program);
  using state = device.createState({ [STATE.parameters]: { shape: [packing.size], dtype: "f32" } });
  await state.write(STATE.parameters, await toVector(packing, leaves));
  const inputs = batchInputs(model, prepared, {
    program,
    lossScale: 1 / Math.max(1, prepared.targets),
  });
  const outputs = await executable.run({ ...bindings, ...inputs }, { state });
  return {
    loss: (await outputs.loss.data())[0] as number,
    gradients: new Map([...leaves.keys()].map((name) => [name, outputs[`grad.${name}`]])),
  };
}
