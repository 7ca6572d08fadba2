/**
 * `getDeltaWeight`: what an adapter changes in the weight of one module.
 *
 * @module
 */
import { nearestNames, ValueError } from "../../errors.ts";
import { checkOptions, type OptionRules, showName, TEXT } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { checkMergeable } from "./merge.ts";
import { siteChange } from "./merge-site.ts";
import { type PeftModel, pristineBase } from "../peft-model.ts";
import { adapterOf } from "../select.ts";

/** Which adapter. */
export interface DeltaWeightOptions {
  /** Its name, active or not; `"default"` by default. */
  readonly adapterName?: string;
}

const OPTIONS: OptionRules<DeltaWeightOptions> = { adapterName: TEXT };

/**
 * What an adapter adds to the weight of a module, in f32 and as the layer stores it: [out, in] of a
 * linear layer, [in, out] of a conv1d or an embedding. It is computed on the model's device when it
 * is read; what a method adds to the weight comes as it is, without the rounding of a sum with the
 * weight. Rows of embeddings that the adapter trains are no part of it.
 *
 * @param model A model with adapters; a factor on the adapter's scaling counts.
 * @param path Path of a module that the adapter adapts.
 * @throws {ValueError} for an unknown adapter, and where it does not adapt the module.
 * @throws {UnsupportedError} where its method cannot be merged.
 *
 * @example
 * ```ts
 * import { createModel, getDeltaWeight, getPeftModel, loraConfig } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const delta = getDeltaWeight(model, "model.layers.0.self_attn.q_proj");
 * console.log(delta.shape); // [32, 32]
 * ```
 */
export function getDeltaWeight(
  model: PeftModel,
  path: string,
  options: DeltaWeightOptions = {},
): Tensor {
  checkOptions(options, OPTIONS, { code: "DELTA_OPTION", of: "getDeltaWeight" });
  const { adapterName = "default" } = options;
  const adapter = adapterOf(model, adapterName);
  checkMergeable(adapter);
  const site = pristineBase(model).sites.get(path);
  if (!site || !adapter.sites.has(path)) {
    const near = typeof path === "string" ? nearestNames(path, adapter.sites.keys()) : [];
    throw new ValueError(
      "SITE_UNKNOWN",
      `The adapter ${JSON.stringify(adapterName)} does not adapt ${showName(path)}; nearest: ${
        near.join(", ") || "none"
      }.`,
      { adapter: adapterName, path },
    );
  }
  return siteChange({ model, adapters: [{ ...adapter, tokens: new Map() }], site }).weight;
}
