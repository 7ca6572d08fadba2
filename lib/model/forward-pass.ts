/**
 * One trace of a model: hands out its weights, lets adapters take part at each site, and records
 * what the program needs to be given when it runs.
 *
 * @module
 */
import { add, mul } from "../ops/binary.ts";
import { attention } from "../ops/attention.ts";
import { broadcast } from "../ops/broadcast.ts";
import { cacheUpdate } from "../ops/cache-update.ts";
import { cast } from "../ops/cast.ts";
import { concat } from "../ops/concat.ts";
import { constant } from "../ops/constant.ts";
import { dropoutMask } from "../ops/dropout-mask.ts";
import { gather } from "../ops/gather.ts";
import { input, type InputSpec } from "../ops/input.ts";
import { layerNorm } from "../ops/layer-norm.ts";
import { reshape } from "../ops/reshape.ts";
import { rmsNorm } from "../ops/rms-norm.ts";
import type { Graph, Value } from "../ops/value.ts";
import { isBlockType, type ScalarType } from "../tensor/dtype.ts";
import { quantizedParts } from "../tensor/quantized-parts.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type ModelGraph, parameterOf, resolveTied } from "./model-graph.ts";
import type { Site } from "./site.ts";
import { lookup, multiply, type Weight } from "./weight.ts";

/**
 * A tensor that stands for a parameter of the base while adapters are active (a trained bias, a
 * saved module); `undefined` where none does.
 */
export type ParameterSource = (
  name: string,
) => { readonly leaf: string; readonly tensor: Tensor } | undefined;

/** How adapters take part in a pass. */
export interface Adaptation {
  /** What stands for a site's output; `pass.base` runs the site itself on any input. */
  site(pass: ForwardPass, site: Site, x: Value): Value;
  /** What stands for parameters of the base. */
  readonly parameter?: ParameterSource;
  /** Keys and values that stand before those of the tokens. */
  prefix?(pass: ForwardPass): PassPrefix;
}

/** Keys and values of virtual tokens, which stand before those of each row. */
export interface PassPrefix {
  /** Number N of virtual tokens. */
  readonly length: number;
  /** Keys and values of one attention layer, each [N, heads of keys, size of a head]. */
  layer(index: number): { readonly k: Value; readonly v: Value };
}

/** Cached keys and values of a pass. */
export interface PassCache {
  /** Number of cached positions that there is room for. */
  readonly capacity: number;
  /** Whether nothing is cached yet, so that virtual tokens have to be. */
  readonly first?: boolean;
}

/** What a pass is traced with. */
export interface PassOptions {
  /** Adapters; none by default. */
  readonly adaptation?: Adaptation;
  /** Stands for a named leaf or parameter that is being trained, instead of an input of its own. */
  readonly trained?: (name: string) => Value | undefined;
  /** Dropout is on where a seed (`i32` [1]) is given. */
  readonly seed?: Value;
  /** `i32` [B, T]: see `AttentionOptions.querySegments`. */
  readonly querySegments: Value;
  /** `i32` [B, T], or [B, capacity] with a cache. */
  readonly keySegments: Value;
  /** `i32` [1]: how many positions are cached. */
  readonly offset: Value;
  /** Keeps keys and values in states `cache.N.k` and `cache.N.v`. */
  readonly cache?: PassCache;
  /**
   * `i32` [B, R]: which of the B·T rows of the last hidden state the head gets, counted through the
   * batch; all of them without it.
   */
  readonly logitRows?: Value;
}

/** What an architecture and a method use to build the program. */
export interface ForwardPass {
  /** The graph that is being traced. */
  readonly graph: Graph;
  /** The base model. */
  readonly model: ModelGraph;
  /** Whether dropout is on. */
  readonly training: boolean;
  /** Runs the linear, conv1d, embedding or norm site of this path, adapters included. */
  site(path: string, x: Value): Value;
  /** Runs a site without adapters, but for the parameters that they replace. */
  base(site: Site, x: Value): Value;
  /** The same pass with other parameters replaced. */
  withParameters(source: ParameterSource | undefined): ForwardPass;
  /**
   * Attention of one layer with this pass's mask and cache; q [B, T, H, D], k and v [B, T, G, D].
   */
  attention(
    layer: number,
    parts: {
      readonly q: Value;
      readonly k: Value;
      readonly v: Value;
      readonly causal?: boolean;
      readonly window?: number | null;
      readonly scale?: number;
    },
  ): Value;
  /** A parameter of the model as a weight, plain or quantized. */
  weight(name: string): Weight;
  /** A parameter in f32; for vectors. */
  parameter(name: string): Value;
  /** An adapter's leaf (f32) under a name that is unique in this pass. */
  leaf(name: string, tensor: Tensor): Value;
  /** An input that the architecture's `hostInputs` computes, by name. */
  hostInput(name: string, spec: InputSpec): Value;
  /** Marks a value, such as the input of a layer, that rematerialisation keeps; gives it back. */
  boundary(x: Value): Value;
  /** The marked values. */
  readonly boundaries: readonly Value[];
  /** Dropout where the pass is a training one and the rate is not 0. */
  dropout(x: Value, rate: number): Value;
  /**
   * Of the last hidden state [B, T, D] those rows that logits are wanted for, [B, R, D]; a model
   * calls it right before its head.
   */
  headRows(h: Value): Value;
  /** Tensors to run the program with, by input name: weights and leaves. */
  readonly bindings: ReadonlyMap<string, Tensor>;
  /** Updates of the cache: state name to the value that replaces it. */
  readonly cacheUpdates: ReadonlyMap<string, Value>;
}

/** Opens a pass over a model in a graph. */
export function createForwardPass(
  graph: Graph,
  model: ModelGraph,
  options: PassOptions,
): ForwardPass {
  const bindings = new Map<string, Tensor>();
  const cacheUpdates = new Map<string, Value>();
  const boundaries: Value[] = [];
  let streams = 0;

  function bind(name: string, tensor: Tensor, spec: InputSpec): Value {
    bindings.set(name, tensor);
    return input(graph, name, spec);
  }

  function weightFrom(source: ParameterSource | undefined, name: string): Weight {
    const replaced = source?.(name);
    if (replaced) return { plain: leaf(replaced.leaf, replaced.tensor) };
    const trained = options.trained?.(resolveTied(model, name));
    if (trained) return { plain: trained };
    const key = resolveTied(model, name);
    const tensor = parameterOf(model, name);
    if (!isBlockType(tensor.dtype)) {
      const dtype = model.device.weightType(tensor.dtype as ScalarType);
      return { plain: bind(key, tensor, { shape: tensor.shape, dtype, role: "weight" }) };
    }
    const { packed, scales, offsets, bits, block } = quantizedParts(tensor);
    const part = (suffix: string, t: Tensor, dtype: "u8" | "f32") =>
      bind(`${key}.${suffix}`, t, { shape: t.shape, dtype, role: "weight" });
    return {
      quantized: {
        packed: part("packed", packed, "u8"),
        scales: part("scales", scales, "f32"),
        offsets: offsets && part("offsets", offsets, "f32"),
        bits,
        block,
      },
    };
  }

  function leaf(name: string, tensor: Tensor): Value {
    const trained = options.trained?.(name);
    if (trained) return trained;
    const dtype = model.device.weightType(tensor.dtype as ScalarType);
    return cast(bind(name, tensor, { shape: tensor.shape, dtype, role: "data" }), "f32");
  }

  /** Keys and values of a layer with those of virtual tokens in front of them. */
  function behindPrefix(
    layer: number,
    { k, v }: { readonly k: Value; readonly v: Value },
  ): { readonly k: Value; readonly v: Value } {
    const own = prefix!.layer(layer);
    const join = (front: Value, rows: Value) => {
      const [b, , g, d] = rows.shape;
      const every = broadcast(reshape(front, [1, -1, g, d]), [b, prefix!.length, g, d]);
      return concat([every, rows], { axis: 1 });
    };
    return { k: join(own.k, k), v: join(own.v, v) };
  }

  function viewWith(source: ParameterSource | undefined): Views {
    const weight = (name: string) => weightFrom(source, name);
    const parameter = (name: string) => {
      const w = weight(name);
      if (!w.plain) {
        throw new TypeError(`${name} is a vector, and vectors are not block-quantized.`);
      }
      return cast(w.plain, "f32");
    };
    return {
      weight,
      parameter,
      base(site, x) {
        const w = `${site.path}.weight`;
        switch (site.kind) {
          case "embedding":
            return lookup(weight(w), x);
          case "norm": {
            const epsilon = epsilonOf(model);
            return site.bias
              ? layerNorm(x, {
                weight: parameter(w),
                bias: parameter(`${site.path}.bias`),
                epsilon,
              })
              : rmsNorm(x, parameter(w), { epsilon });
          }
          default: {
            const y = multiply(x, weight(w), { transposeB: site.kind === "linear" });
            return site.bias ? add(y, parameter(`${site.path}.bias`)) : y;
          }
        }
      },
    };
  }

  const pass: ForwardPass = {
    graph,
    model,
    training: options.seed !== undefined,
    bindings,
    cacheUpdates,
    ...viewWith(options.adaptation?.parameter),
    withParameters: (source) => ({ ...pass, ...viewWith(source) }),
    site(path, x) {
      const site = model.sites.get(path);
      if (!site) {
        throw new TypeError(`The architecture ran the site "${path}" without declaring it.`);
      }
      return options.adaptation ? options.adaptation.site(pass, site, x) : pass.base(site, x);
    },
    attention(layer, { q, k, v, causal = true, window = null, scale }) {
      const { querySegments, keySegments, offset, cache } = options;
      const rest = { querySegments, keySegments, offset, causal, window, scale };
      const added = prefix ? behindPrefix(layer, { k, v }) : { k, v };
      if (prefix) rest.offset = add(offset, prefix.length);
      if (!cache) {
        if (prefix) {
          const shape = [keySegments.shape[0], prefix.length];
          const seen = constant(graph, 1, { shape, dtype: "i32" });
          rest.keySegments = concat([seen, keySegments], { axis: 1 });
        }
        return attention(q, { ...added, ...rest });
      }
      const [all, values] = (["k", "v"] as const).map((part) => {
        const rows = added[part];
        const name = `cache.${layer}.${part}`;
        const [b, , g, d] = rows.shape;
        const old = input(graph, name, {
          shape: [b, cache.capacity, g, d],
          dtype: "f32",
          role: "state",
        });
        const next = cacheUpdate(old, rows, { offset });
        cacheUpdates.set(name, next);
        return next;
      });
      return attention(q, { k: all, v: values, ...rest });
    },
    leaf,
    boundary(x) {
      boundaries.push(x);
      return x;
    },
    boundaries,
    hostInput: (name, spec) => input(graph, name, spec),
    dropout(x, rate) {
      if (!options.seed || rate === 0) return x;
      return mul(x, dropoutMask(graph, x.shape, { seed: options.seed, rate, stream: streams++ }));
    },
    headRows(h) {
      const { logitRows } = options;
      return logitRows ? gather(reshape(h, [-1, h.shape[h.shape.length - 1]]), logitRows) : h;
    },
  };
  // Later runs find the virtual tokens in the cache.
  const atStart = !options.cache || options.cache.first;
  const prefix = atStart ? options.adaptation?.prefix?.(pass) : undefined;
  return pass;
}

type Views = Pick<ForwardPass, "weight" | "parameter" | "base">;

function epsilonOf(model: ModelGraph): number {
  const { config } = model;
  return (config.rms_norm_eps ?? config.layer_norm_epsilon ?? config.layer_norm_eps ??
    1e-5) as number;
}
