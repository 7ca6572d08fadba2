/**
 * The base that an adapter is for, whose layers may be those of another, repeated.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { replicateLayers } from "../io/replicate-layers.ts";
import type { PeftConfig } from "../methods/config.ts";
import type { PeftMethod } from "../methods/method.ts";
import type { ModelGraph } from "../model/model-graph.ts";
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
  const places = ranges.flatMap(([from, to]) =>
    Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i)
  );
  if (ranges.length === 0 || base.layerOrder?.join() === places.join()) return base;
  if (base.layerOrder || model.type === "peft" && model.adapters.size > 0) {
    throw new ValueError(
      "LAYER_REPLICATION",
      `layerReplication ${JSON.stringify(ranges)} makes another base than the model's, which ${
        base.layerOrder
          ? `has the layers ${base.layerOrder.join(", ")} already`
          : "has adapters on all of its layers as they are"
      }. Put the adapter on the model that its config was made for: the one without repeated layers.`,
      { ranges, layers: base.layerOrder },
    );
  }
  return replicateLayers(base, ranges);
}
