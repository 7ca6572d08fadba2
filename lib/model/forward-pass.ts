/**
 * One trace of a model: hands out its weights, lets adapters take part at each site, and records
 * what the program needs to be given when it runs.
 *
 * @module
 */
import { add, cos, div, log, mul, sin, sqrt, sub } from "../ops/elementwise.ts";
import { cast } from "../ops/cast.ts";
import { concat } from "../ops/concat.ts";
import { constant } from "../ops/constant.ts";
import { dropoutMask } from "../ops/dropout-mask.ts";
import { gather } from "../ops/gather.ts";
import { input, type InputSpec } from "../ops/input.ts";
import { layerNorm } from "../ops/layer-norm.ts";
import { uniform } from "../ops/uniform.ts";
import { reshape } from "../ops/reshape.ts";
import { rmsNorm } from "../ops/rms-norm.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Graph, Value } from "../ops/value.ts";
import { isBlockType, isFloating, type ScalarType, sizeOf } from "../tensor/dtype.ts";
import { quantizedParts } from "../tensor/quantized-parts.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { attend, type AttentionCall, type PassPrefix, type PassSequence } from "./attend.ts";
import type { ArchitecturePass } from "./architecture.ts";
import { type ModelGraph, parameterOf, resolveTied } from "./model-graph.ts";
import { biasName, type Site, weightName } from "./site.ts";
import { perFeature, product } from "./site-product.ts";
import { dense, lookup, type LowRank, type Weight } from "./weight.ts";

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
  /** What is added to a parameter of the base. */
  added?(pass: ForwardPass, name: string): readonly LowRank[];
  /** Keys and values that stand before those of the tokens. */
  prefix?(pass: ForwardPass): PassPrefix;
  /** What stands for the rows of the token embedding [B, T, D]: these and N before, [B, N+T, D]. */
  embeds?(pass: ForwardPass, rows: Value): Value;
  /**
   * What stands for the output [B, T, D] of an attention module, which comes after its output
   * projection.
   */
  attention?(pass: ForwardPass, call: AdaptedAttention, output: Value): Value;
}

/** An attention module as adapters see it. */
export interface AdaptedAttention extends Pick<AttentionCall, "q" | "keyValues" | "project"> {
  /** Its path. */
  readonly path: string;
  /** Its number among the layers of its sequence. */
  readonly index: number;
}

/** What a pass is traced with. */
export interface PassOptions extends PassSequence {
  /** Adapters; none by default. */
  readonly adaptation?: Adaptation;
  /** Stands for a named leaf or parameter that is being trained, instead of an input of its own. */
  readonly trained?: (name: string) => Value | undefined;
  /** Dropout is on where a seed (`i32` [1]) is given. */
  readonly seed?: Value;
  /** Whether what training draws at random, but for dropout, comes with the batch. */
  readonly noise?: boolean;
  /** `i32` [1]: number of the first row where the batch is a part of a larger one; 0 by default. */
  readonly firstRow?: Value;
  /** Sizes of axes beside rows and tokens, by name; `images` are as many as rows by default. */
  readonly axes?: Readonly<Record<string, number>>;
  /**
   * `i32` [B, R]: which of the B·T rows of the last hidden state the head gets, counted through the
   * batch; all of them without it.
   */
  readonly logitRows?: Value;
}

/** What architectures and methods use to build the program. */
export interface ForwardPass extends ArchitecturePass {
  /** The base model. */
  readonly model: ModelGraph;
  /** Runs the linear, conv1d, conv, embedding or norm site of this path, adapters included. */
  site(path: string, x: Value): Value;
  /**
   * Runs a site without adapters, but for the parameters that they replace; with a change of its
   * weight, where it multiplies with one.
   */
  base(site: Site, x: Value, change?: Value): Value;
  /** The same pass with other parameters replaced. */
  withParameters(source: ParameterSource | undefined): ForwardPass;
  /** Runs the attention module of this path with this pass's mask and cache, adapters included. */
  attention(path: string, call: AttentionCall): Value;
  /** A parameter of the model as a weight, plain or quantized. */
  weight(name: string): Weight;
  /** The same with what adapters add to it as a parameter. */
  adaptedWeight(name: string): Weight;
  /** A parameter in f32; for vectors. */
  parameter(name: string): Value;
  /** What is being trained, as far as the pass came across it. */
  readonly trained: ReadonlySet<Value>;
  /** An adapter's leaf under a name that is unique in this pass: f32, whole numbers i32. */
  leaf(name: string, tensor: Tensor): Value;
  /** Says what a leaf that is state becomes by this pass, if it is one of training. */
  update(leaf: Value, next: Value): void;
  /** What {@link update} was given, by the names of leaves. */
  readonly updates: ReadonlyMap<string, Value>;
  /** The values that {@link ArchitecturePass.boundary} marked. */
  readonly boundaries: readonly Value[];
  /** What {@link ArchitecturePass.penalize} was given. */
  readonly penalties: readonly Value[];
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
  const boundaries: Value[] = [], penalties: Value[] = [];
  const means = new Map<string, readonly Value[]>();
  const leaves = new Map<Value, string>(), updates = new Map<string, Value>();
  const trained = new Set<Value>();
  let streams = 0;

  function bind(name: string, tensor: Tensor, spec: InputSpec): Value {
    bindings.set(name, tensor);
    return input(graph, name, spec);
  }

  function beingTrained(name: string): Value | undefined {
    const value = options.trained?.(name);
    if (value) trained.add(value);
    return value;
  }

  function weightFrom(source: ParameterSource | undefined, name: string): Weight {
    const replaced = source?.(name);
    if (replaced) return { plain: leaf(replaced.leaf, replaced.tensor) };
    const trained = beingTrained(resolveTied(model, name));
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
    const dtype = model.device.weightType(tensor.dtype as ScalarType);
    const own = () => bind(name, tensor, { shape: tensor.shape, dtype, role: "data" });
    const value = beingTrained(name) ?? cast(own(), isFloating(tensor.dtype) ? "f32" : "i32");
    leaves.set(value, name);
    return value;
  }

  function viewWith(source: ParameterSource | undefined): Views {
    const weight = (name: string) => weightFrom(source, name);
    const adaptedWeight = (name: string): Weight => {
      const added = options.adaptation?.added?.(pass, name) ?? [];
      return added.length ? { ...weight(name), added } : weight(name);
    };
    const parameter = (name: string) => {
      const w = weight(name);
      if (!w.plain) {
        throw new TypeError(`${name} is a vector, and vectors are not block-quantized.`);
      }
      return cast(w.plain, "f32");
    };
    return {
      weight,
      adaptedWeight,
      parameter,
      base(site, x, change) {
        const w = weightName(site);
        switch (site.kind) {
          case "embedding":
            return lookup(adaptedWeight(w), x);
          case "norm": {
            const { kind, epsilon, offset = 0 } = site.norm!;
            const factor = offset ? add(parameter(w), offset) : parameter(w);
            if (kind === "rms" && !site.bias) return rmsNorm(x, factor, { epsilon });
            const bias = site.bias
              ? parameter(`${site.path}.bias`)
              : constant(graph, 0, { shape: [site.outFeatures] });
            return kind === "layer"
              ? layerNorm(x, { weight: factor, bias, epsilon })
              : add(rmsNorm(x, factor, { epsilon }), bias);
          }
          default: {
            const own = adaptedWeight(w);
            const y = product(site, x, change ? { plain: add(dense(own), change) } : own);
            return site.bias ? add(y, perFeature(site, parameter(biasName(site)))) : y;
          }
        }
      },
    };
  }

  const pass: ForwardPass = {
    graph,
    model,
    training: options.seed !== undefined || options.noise === true,
    segments: options.keySegments,
    offset: options.offset,
    trained,
    bindings,
    cacheUpdates,
    ...viewWith(options.adaptation?.parameter),
    withParameters: (source) => ({ ...pass, ...viewWith(source) }),
    site(path, x) {
      const site = model.sites.get(path)!;
      return options.adaptation ? options.adaptation.site(pass, site, x) : pass.base(site, x);
    },
    attention(path, call) {
      const site = model.sites.get(path)!;
      const output = attend({
        rule: site.attention!,
        call,
        sequence: options,
        prefix,
        dropout: pass.dropout,
        training: pass.training,
        update: (name, value) => cacheUpdates.set(name, value),
      });
      const { q, keyValues, project } = call, { index } = site.attention!;
      const adapted = { path, index, q, keyValues, project };
      return options.adaptation?.attention?.(pass, adapted, output) ?? output;
    },
    embedded: (rows) => atStart && options.adaptation?.embeds?.(pass, rows) || rows,
    encoded: (run) => atStart ? run() : undefined,
    leaf,
    update: (leaf, next) => void updates.set(leaves.get(leaf)!, next),
    updates,
    boundary(x) {
      boundaries.push(x);
      return x;
    },
    boundaries,
    penalize(x, meanOf) {
      if (meanOf === undefined) penalties.push(x);
      else means.set(meanOf, [...means.get(meanOf) ?? [], x]);
    },
    get penalties() {
      const mean = (all: readonly Value[]) => div(all.reduce((a, b) => add(a, b)), all.length);
      return [...penalties, ...[...means.values()].map(mean)];
    },
    hostInput: (name, spec) => input(graph, name, spec),
    batchInput({ name, axes, dtype }) {
      const [batch, tokens] = options.querySegments.shape;
      const sizes: Readonly<Record<string, number>> = {
        images: batch,
        ...options.axes,
        batch,
        tokens,
        decoderTokens: options.decoder?.querySegments.shape[1] ?? tokens,
      };
      return input(graph, name, {
        shape: axes.map((axis) => typeof axis === "number" ? axis : sizes[axis]),
        dtype,
      });
    },
    dropout(x, rate) {
      if (!options.seed || rate === 0) return x;
      const { seed, firstRow } = options;
      return mul(x, dropoutMask(graph, x.shape, { seed, rate, stream: streams++, firstRow }));
    },
    noise(name, shape, distribution = "uniform") {
      const { noise, seed } = options;
      if (noise) return input(graph, `noise.${name}`, { shape, dtype: "f32" });
      if (!seed) throw new TypeError("Only training draws random numbers.");
      const draw = (shape: readonly number[]) => uniform(graph, shape, { seed, stream: streams++ });
      if (distribution === "uniform") return draw(shape);
      // Box and Muller, 1958: two numbers of two.
      const size = sizeOf(shape), pairs = [Math.ceil(size / 2)];
      const radius = sqrt(mul(log(sub(1, draw(pairs))), -2));
      const angle = mul(draw(pairs), 2 * Math.PI);
      const all = concat([mul(radius, cos(angle)), mul(radius, sin(angle))], { axis: 0 });
      return reshape(sliceAxis(all, { axis: 0, start: 0, size }), shape);
    },
    headRows(h) {
      const { logitRows } = options;
      return logitRows ? gather(reshape(h, [-1, h.shape[h.shape.length - 1]]), logitRows) : h;
    },
  };
  // Later runs find the virtual tokens in the cache.
  const atStart = !options.cache || options.cache.first === true;
  const prefix = atStart ? options.adaptation?.prefix?.(pass) : undefined;
  return pass;
}

type Views = Pick<ForwardPass, "weight" | "adaptedWeight" | "parameter" | "base">;
