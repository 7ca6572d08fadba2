/**
 * `getDeltaWeight`: what an adapter changes in the weight of one module.
 *
 * @module
 */
import { nearestNames, ValueError } from "../../errors.ts";
import { checkOptions, showName, TEXT } from "../../options.ts";
import { siteAt } from "../../model/model-graph.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { checkMergeable } from "./merge.ts";
import { siteChange, type SiteParameters } from "./merge-site.ts";
import { adaptedPaths, partsOf, partsOfKind, sitePart } from "../parts.ts";
import { type PeftModel, pristineBase } from "../peft-model.ts";
import { adapterOf } from "../select.ts";

/** Which adapter. */
export interface DeltaWeightOptions {
  /** Its name, active or not; `"default"` by default. */
  readonly adapterName?: string;
}

/**
 * What an adapter adds to the weight of a module, in f32 and as the layer stores it: [out, in] of a
 * linear layer, [in, out] of a conv1d or an embedding. It is computed on the model's device when it
 * is read; what a method adds to the weight comes as it is, without the rounding of a sum with the
 * weight. Rows of embeddings that the adapter trains are no part of it.
 *
 * @param model A model with adapters; a factor on the adapter's scaling counts.
 * @param path Path of a module, or name of a parameter, that the adapter adapts.
 * @throws {ValueError} for an unknown adapter, and where it does not adapt the module.
 * @throws {UnsupportedError} where its method cannot be merged.
 *
 * @example
 * ```ts
 * import { getDeltaWeight, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
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
  checkOptions(options, { adapterName: TEXT }, { code: "DELTA_OPTION", of: "getDeltaWeight" });
  return deltaAt(model, path, options).weight;
}

/** The same with what the adapter changes in the module's bias, where it does. */
export function deltaAt(
  model: PeftModel,
  path: string,
  { adapterName = "default" }: DeltaWeightOptions,
): SiteParameters {
  const adapter = adapterOf(model, adapterName);
  checkMergeable(adapter);
  if (typeof path !== "string" || !sitePart(adapter, path)) {
    const near = typeof path === "string" ? nearestNames(path, adaptedPaths(adapter)) : [];
    throw new ValueError(
      "SITE_UNKNOWN",
      `The adapter ${JSON.stringify(adapterName)} does not adapt ${showName(path)}; nearest: ${
        near.join(", ") || "none"
      }.`,
      { adapter: adapterName, path },
    );
  }
  const parts = partsOf(partsOfKind(adapter, "site", "adapter", "parameter"));
  const site = siteAt(pristineBase(model), path);
  return siteChange({ model, adapters: [{ ...adapter, parts }], site });
}
