/**
 * `replicateLayers`: a deeper model from the layers of another.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { createForwardPass } from "../model/forward-pass.ts";
import {
  createModelGraph,
  type LayerRange,
  type ModelGraph,
  parameterOf,
  placeIn,
  structureOf,
} from "../model/model-graph.ts";
import { runModel } from "../model/run-model.ts";
import type { TaskType } from "../model/task-type.ts";
import { input } from "../ops/input.ts";
import { createGraph } from "../ops/value.ts";
import { show } from "../options.ts";
import { programOf } from "../program/program.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { shareTokenizer } from "./model-tokenizer.ts";

/** Ranges of a few numbers can stand for any number of layers. */
const MOST = 10_000;

/** What configs call the number of layers. */
const COUNTS = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];

/** Their lists of what layers are, one entry a layer. */
const LISTS = ["layer_types", "no_rope_layers", "attention_layers", "mlp_layer_types"];

/**
 * A model of these layers of another, one range behind the other, so that layers in several ranges
 * are repeated: `[[0, 4], [2, 5]]` stands for the layers 0, 1, 2, 3, 2, 3, 4. Repeated layers have
 * their weights once, and their own place in a cache; the other model stays what it was (depth
 * up-scaling; Kim et al., 2023, arXiv:2312.15166).
 *
 * Adapters with `layerReplication` are put on such a model by `getPeftModel` and `loadAdapter`.
 *
 * @param model A model of one list of layers.
 * @param ranges Layers by number, in the order in which they run.
 * @throws {ValueError} `LAYER_RANGE` for ranges that hold no layers, or others than the model's.
 * @throws {UnsupportedError} `LAYER_LIST` for a model with several lists of layers, or none.
 *
 * @example
 * ```ts
 * import { forward, replicateLayers, tinyModel } from "@graft/peft";
 * const base = await tinyModel(); // of two layers
 * using _device = base.device;
 * const deeper = replicateLayers(base, [[0, 2], [1, 2]]);
 * const { logits } = await forward(deeper, { inputIds: [[1, 2, 3]] });
 * console.log(deeper.config.num_hidden_layers, deeper.parameters.size === base.parameters.size);
 * // 3 true
 * console.log(logits.shape); // [1, 3, 96]
 * ```
 */
export function replicateLayers<T extends TaskType = TaskType>(
  model: ModelGraph<T>,
  ranges: readonly LayerRange[],
): ModelGraph<T> {
  const { lists, shapes } = structureOf(model), [list] = lists;
  if (lists.length !== 1) {
    throw new UnsupportedError(
      "LAYER_LIST",
      `Only layers of one list can be repeated, and the ${model.architecture.name} model has ${
        lists.join(", ") || "none"
      }. Leave layerReplication out.`,
      { lists },
    );
  }
  const count = 1 +
    Math.max(-1, ...[...shapes.keys()].map((name) => placeIn(list, name)?.place ?? -1));
  const total = ranges.reduce((sum, [from, to]) => sum + to - from, 0);
  if (total > MOST) {
    throw new ValueError(
      "LAYER_RANGE",
      `layerReplication asks for ${total} layers, and ${MOST} are the most that a model can have here.`,
      { layers: total },
    );
  }
  const places = ranges.flatMap(([from, to]) => {
    if (Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= count) {
      return Array.from({ length: to - from }, (_, i) => from + i);
    }
    throw new ValueError(
      "LAYER_RANGE",
      `The range ${
        show([from, to])
      } of layerReplication holds no layers of the model, which are 0 to ${
        count - 1
      }: the first is named, and the one after the last.`,
      { range: [from, to], layers: count },
    );
  });
  if (places.length === 0) {
    throw new ValueError(
      "LAYER_RANGE",
      "layerReplication has no ranges, and a model needs layers.",
    );
  }
  const layerOrder = places.map((place) => model.layerOrder?.[place] ?? place);
  const config = withCount(model.config, count, places.length);
  const grown = structureOf({ ...model, config, layerOrder });
  const parameters = new Map<string, Tensor>();
  for (const name of grown.shapes.keys()) {
    const at = placeIn(list, name);
    const tensor = parameterOf(model, at ? `${list}.${places[at.place]}.${at.rest}` : name);
    const holder = grown.tied.get(name);
    if (holder === undefined || parameters.get(holder) !== tensor) parameters.set(name, tensor);
  }
  shareTokenizer(model.config, config);
  return createModelGraph(model.architecture, {
    ...model,
    config,
    layerOrder,
    parameters,
  }) as ModelGraph<T>;
}

function withCount(config: ModelConfig, from: number, to: number): ModelConfig {
  const named = COUNTS.filter((name) => config[name] === from);
  return {
    ...config,
    ...Object.fromEntries((named.length ? named : COUNTS.slice(0, 1)).map((name) => [name, to])),
  };
}

/**
 * The config of a model by itself: its lists of what layers are are those of its own layers.
 *
 * @throws {UnsupportedError} `LAYER_KINDS` where a config cannot say it, as layers are what they are by
 * their number.
 */
export function ownConfig(model: ModelGraph): ModelConfig {
  const { config, layerOrder } = model;
  if (!layerOrder) return config;
  const lists = LISTS.filter((name) => Array.isArray(config[name]));
  const own = {
    ...config,
    ...Object.fromEntries(
      lists.map((name) => [name, layerOrder.map((layer) => (config[name] as unknown[])[layer])]),
    ),
  };
  if (programKey({ ...model, config: own, layerOrder: undefined }) === programKey(model)) {
    return own;
  }
  throw new UnsupportedError(
    "LAYER_KINDS",
    `The layers ${
      layerOrder.join(", ")
    } in this order cannot be told by a config of the ${model.architecture.name} ` +
      `model: what a layer is follows from its number, and there is no list of it (${
        LISTS.join(", ")
      }). ` +
      "Save the adapter instead, whose config holds layerReplication.",
    { layerOrder },
  );
}

/** What a model computes, whatever its weights. */
function programKey(model: ModelGraph): string {
  const graph = createGraph();
  const tokens = (name: string, shape = [1, 8]) => input(graph, name, { shape, dtype: "i32" });
  const pass = createForwardPass(graph, model, {
    querySegments: tokens("querySegments"),
    keySegments: tokens("keySegments"),
    offset: tokens("offset", [1]),
  });
  return programOf(runModel(pass, { ids: tokens("ids"), positions: tokens("positions") })).key;
}
