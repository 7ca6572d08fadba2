/**
 * The base that an adapter is for, whose layers may be those of another, repeated.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { replicateLayers } from "../io/replicate-layers.ts";
import type { PeftConfig } from "../methods/config.ts";
import type { PeftMethod } from "../methods/method.ts";
import type { LayerRange, ModelGraph } from "../model/model-graph.ts";
import { show } from "../options.ts";
import { type AnyModel, pristineBase } from "./peft-model.ts";

/**
 * The base that a config asks for (`layerReplication`): a model's own, where it is that already or
 * the config says nothing.
 *
 * @throws {ValueError} `LAYER_REPLICATION` where it would be another than that of adapters that are
 * on the model.
 */
export function layeredBase(
  model: AnyModel,
  of: { readonly method: PeftMethod; readonly config: PeftConfig },
): ModelGraph {
  const base = pristineBase(model), ranges = of.method.config.layers?.(of.config) ?? [];
  if (ranges.length === 0 || (base.layerOrder && isOrder(base.layerOrder, ranges))) return base;
  if (base.layerOrder || model.type === "peft" && model.adapters.size > 0) {
    throw new ValueError(
      "LAYER_REPLICATION",
      `layerReplication ${show(ranges)} makes another base than the model's, which ${
        base.layerOrder
          ? `has the layers ${base.layerOrder.join(", ")} already`
          : "has adapters on all of its layers as they are"
      }. Put the adapter on the model that its config was made for: the one without repeated layers.`,
      { ranges, layers: base.layerOrder },
    );
  }
  return replicateLayers(base, ranges);
}

/** Whether ranges stand for these layers. */
function isOrder(order: readonly number[], ranges: readonly LayerRange[]): boolean {
  let at = 0;
  for (const [from, to] of ranges) {
    for (let layer = from; layer < to; layer++) if (order[at++] !== layer) return false;
  }
  return at === order.length;
}
