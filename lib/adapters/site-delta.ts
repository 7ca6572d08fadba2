/**
 * What an adapter changes in the weight of one site.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { checkMergeable } from "./merge.ts";
import { siteChange } from "./merge-site.ts";
import type { Adapter, PeftModel } from "./peft-model.ts";

/**
 * What an adapter adds to the weight of a site, in f32 and as the layer stores it: [out, in] of a
 * linear layer, [in, out] of a conv1d or an embedding. It is computed on the model's device when it
 * is read; what a method adds to the weight comes as it is, without the rounding of a sum with the
 * weight. Rows of embeddings that the adapter trains are no part of it.
 *
 * @param model The model; its factor on the adapter's scaling counts.
 * @param adapter One of its adapters, active or not.
 * @param site A site that the adapter adapts.
 * @throws {ValueError} where the adapter does not adapt the site.
 * @throws {UnsupportedError} where its method cannot be merged.
 */
export function siteDelta(model: PeftModel, adapter: Adapter, site: Site): Tensor {
  checkMergeable(adapter);
  const { name, sites } = adapter;
  if (!sites.has(site.path)) {
    throw new ValueError(
      "SITE_UNKNOWN",
      `The adapter ${JSON.stringify(name)} does not adapt ${site.path}; it adapts ${
        [...sites.keys()].slice(0, 4).join(", ")
      }${sites.size > 4 ? " and others" : ""}.`,
      { adapter: name, path: site.path },
    );
  }
  return siteChange({ model, adapters: [{ ...adapter, tokens: new Map() }], site }).weight;
}
