/**
 * Declaring the modules of a model: once, for those who want to know them and for those who run
 * them.
 *
 * @module
 */
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import type { AttentionCall } from "./attend.ts";
import { type AttentionLayout, type NormRule, parameterShapes, type Site } from "./site.ts";
import { dense, type Weight } from "./weight.ts";

/** A module with weights, as a function of what goes into it. */
export interface Layer {
  (x: Value): Value;
  /** Its path. */
  readonly path: string;
}

/** An attention module, as a function of queries, keys and values: see {@link AttentionCall}. */
export type AttentionLayer = (call: AttentionCall) => Value;

/**
 * A place in the tree of modules. What is declared here is declared in the order in which torch
 * constructs it, whatever the order in which it runs: that is the order of a model's sites, and of
 * the random numbers that adapters draw.
 */
export interface Modules {
  /** A place further down. */
  at(name: string | number): Modules;
  /** A linear layer, with a bias by default; `stored: "in-out"` for a weight stored [in, out]. */
  linear(
    name: string,
    sizes: { readonly in: number; readonly out: number },
    options?: LinearOptions,
  ): Layer;
  /** A convolution of [B, in, ...] in as many dimensions as its kernel has, with a bias by default. */
  conv(name: string, sizes: ConvSizes, options?: ConvOptions): Layer;
  /** A table [rows, size] of vectors by id. */
  embedding(
    name: string,
    sizes: { readonly rows: number; readonly size: number },
    options?: EmbeddingOptions,
  ): Layer;
  /** A norm over so many features; a LayerNorm has a bias by default, an RMSNorm has none. */
  norm(name: string, size: number, rule: NormRule & { readonly bias?: boolean }): Layer;
  /** A parameter that belongs to no site, in f32. */
  parameter(name: string, shape: readonly number[]): () => Value;
  /** The same for products (`multiply`, `pick`), such as experts [E, out, in] that lie in one. */
  weight(name: string, shape: readonly number[]): () => Weight;
  /**
   * Declares so many layers, one like the other, in the list of this name. `layer` is the number that
   * its layer was given by the config, which is not its place where layers are repeated
   * (`replicateLayers`). One that is refused ends it, however many were asked for.
   */
  layers<T>(
    name: string,
    count: number,
    declare: (m: Modules, layer: number) => T,
  ): readonly T[];
  /**
   * Attention as torch's `nn.MultiheadAttention`, of one size throughout: of queries x [B, T, D] over
   * rows [B, S, D], which are x by default; gives [B, T, D]. LoRA adapts it as one module, as in PEFT.
   */
  multiheadAttention(name: string, options: MultiheadOptions): (x: Value, rows?: Value) => Value;
  /** Makes this place an attention module, before the modules in it are declared. */
  attention(sizes: AttentionSizes): AttentionLayer;
}

/** How a layer's weight is that of another. */
export interface TieOptions {
  /** The layer whose weight is its own too, unless a checkpoint holds another for it. */
  readonly tiedTo?: Layer;
}

/** How an embedding is made. */
export interface EmbeddingOptions extends TieOptions {
  /** How many positions it knows, where its ids are positions. */
  readonly positions?: number;
}

/** How a linear layer is made. */
export interface LinearOptions extends TieOptions {
  /** Whether it has a bias; true by default. */
  readonly bias?: boolean;
  /** How its weight is stored; `"out-in"` by default. */
  readonly stored?: "in-out" | "out-in";
  /** Whether it is the output head. */
  readonly head?: boolean;
}

/** Channels and kernel of a convolution. */
export interface ConvSizes {
  /** Channels that go in. */
  readonly in: number;
  /** Channels that come out. */
  readonly out: number;
  /** Size of the kernel in one to three dimensions. */
  readonly kernel: readonly number[];
}

/** How a convolution is made: what is one number counts for all of its dimensions. */
export interface ConvOptions {
  /** Whether it has a bias; true by default. */
  readonly bias?: boolean;
  /** 1 by default. */
  readonly stride?: number | readonly number[];
  /** Zeros on both sides of the input; none by default. */
  readonly padding?: number | readonly number[];
  /** 1 by default. */
  readonly dilation?: number | readonly number[];
  /** Groups of channels that are convolved apart; 1 by default. */
  readonly groups?: number;
}

/** How an attention module is made. */
export interface AttentionSizes extends Pick<AttentionLayout, "heads" | "headSize"> {
  /** Size of the hidden state. */
  readonly features: number;
  /** Heads of keys and values; as many as of queries by default. */
  readonly keyHeads?: number;
  /** The sequence that it belongs to; `"tokens"` by default. */
  readonly over?: AttentionLayout["over"];
}

/**
 * How torch's attention is made.
 *
 * @example
 * ```ts
 * import { add, defineModel, getPeftModel, loraConfig, type MultiheadOptions } from "@graft/peft";
 * const options: MultiheadOptions = { features: 16, heads: 4 };
 * const base = await defineModel({
 *   inputs: { x: { axes: ["batch", 3, 16] } },
 *   modules(m) {
 *     const attend = m.multiheadAttention("attn", options);
 *     return ({ x }) => ({ y: add(x, attend(x)) });
 *   },
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ targetModules: ["attn"] }));
 * console.log([...model.adapters.get("default")!.parts.keys()]); // ["attn", "attn.out_proj"]
 * ```
 */
export interface MultiheadOptions extends Pick<AttentionSizes, "features" | "heads"> {
  /** Whether its projections have biases; true by default. */
  readonly bias?: boolean;
  /** The sequence that it belongs to; `"patches"` by default, rows of anything, all of which are seen. */
  readonly over?: AttentionLayout["over"];
  /** Share of the probabilities that training drops; 0 by default. */
  readonly dropout?: number;
}

/** What a definition declares. */
export interface Structure {
  /** Sites by module path, in the order of their declaration. */
  readonly sites: ReadonlyMap<string, Site>;
  /** Shapes of all parameters by checkpoint name, tied ones included. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Parameters that are the same tensor as another one: alias to source. */
  readonly tied: ReadonlyMap<string, string>;
  /** Paths of lists of layers. */
  readonly lists: readonly string[];
}

/** What becomes of declarations. */
export interface Visitor {
  /** A site, and what holds its weight where another does. */
  site(site: Site, tie: TieOptions): (x: Value) => Value;
  /** A parameter that belongs to no site. */
  parameter(name: string, shape: readonly number[]): () => Weight;
  /** An attention module. */
  attention(site: Site): AttentionLayer;
  /** The path of a list of layers. */
  list?(path: string): void;
  /** Numbers of the layers that a list has, where they are not all of them in their order. */
  readonly layerOrder?: readonly number[];
}

/**
 * Runs a definition to learn what it declares.
 *
 * @param options `check` is told how many parameters there are so far, and may end it.
 */
export function recordModules(
  define: (modules: Modules) => unknown,
  options: {
    readonly check?: (parameters: number) => void;
    readonly layerOrder?: readonly number[];
  } = {},
): Structure {
  const { check, layerOrder } = options, lists: string[] = [];
  const sites = new Map<string, Site>();
  const shapes = new Map<string, readonly number[]>();
  const tied = new Map<string, string>();
  const counts = new Map<string, number>();
  const notTraced = () => {
    throw new TypeError("Modules are declared before anything runs.");
  };
  const declare = (site: Site) => {
    if (sites.has(site.path)) return; // attention and its projection in one
    sites.set(site.path, site);
    for (const [part, shape] of Object.entries(parameterShapes(site))) {
      shapes.set(`${site.path}.${part}`, shape);
    }
    check?.(shapes.size);
  };
  define(modulesAt("", {
    site(site, { tiedTo }) {
      declare(site);
      if (tiedTo) tied.set(`${site.path}.weight`, `${tiedTo.path}.weight`);
      return notTraced;
    },
    parameter(name, shape) {
      shapes.set(name, shape);
      return notTraced;
    },
    attention(site) {
      const { over } = site.attention!, index = counts.get(over) ?? 0;
      counts.set(over, index + 1);
      declare({ ...site, attention: { ...site.attention!, index } });
      return notTraced;
    },
    list: (path) => lists.push(path),
    layerOrder,
  }));
  return { sites, shapes, tied, lists };
}

/** The place at a path whose declarations a visitor gets. */
export function modulesAt(path: string, visit: Visitor): Modules {
  const full = (name: string | number) => path ? `${path}.${name}` : `${name}`;
  const layer = (site: Site, tie: TieOptions = {}): Layer => {
    const run = visit.site(site, tie);
    return Object.assign((x: Value) => run(x), { path: site.path });
  };
  return {
    at: (name) => modulesAt(full(name), visit),
    linear: (name, sizes, { bias = true, stored, head, ...tie } = {}) =>
      layer({
        path: full(name),
        kind: stored === "in-out" ? "conv1d" : "linear",
        inFeatures: sizes.in,
        outFeatures: sizes.out,
        bias,
        ...(head && { head }),
      }, tie),
    conv(name, { kernel, ...sizes }, { bias = true, stride, padding, dilation, groups = 1 } = {}) {
      const each = (of: number | readonly number[]) =>
        typeof of === "number" ? kernel.map(() => of) : of;
      return layer({
        path: full(name),
        kind: "conv",
        inFeatures: sizes.in,
        outFeatures: sizes.out,
        bias,
        conv: {
          kernel,
          stride: each(stride ?? 1),
          padding: each(padding ?? 0),
          dilation: each(dilation ?? 1),
          groups,
        },
      });
    },
    embedding: (name, { rows, size }, { positions, ...tie } = {}) =>
      layer({
        path: full(name),
        kind: "embedding",
        inFeatures: rows,
        outFeatures: size,
        bias: false,
        ...(positions !== undefined && { positions }),
      }, tie),
    norm: (name, size, { bias, ...norm }) =>
      layer({
        path: full(name),
        kind: "norm",
        inFeatures: size,
        outFeatures: size,
        bias: bias ?? norm.kind === "layer",
        norm,
      }),
    parameter(name, shape) {
      const weight = visit.parameter(full(name), shape);
      return () => dense(weight());
    },
    weight: (name, shape) => visit.parameter(full(name), shape),
    layers(name, count, declare) {
      const list = full(name), made: ReturnType<typeof declare>[] = [];
      visit.list?.(list);
      while (made.length < count) {
        const place = made.length, layer = visit.layerOrder ? visit.layerOrder[place] : place;
        made.push(declare(modulesAt(`${list}.${place}`, visit), layer));
      }
      return made;
    },
    multiheadAttention(name, options) {
      const { features, heads, bias = true, over = "patches", dropout } = options;
      const headSize = features / heads, path = full(name);
      const shared = { kind: "multihead", inFeatures: features, bias } as const;
      const site = { ...shared, path, outFeatures: 3 * features, stem: "in_proj_" };
      const layout = { heads, keyHeads: heads, headSize, over, index: 0 };
      const attend = visit.attention({ ...site, attention: layout }), into = layer(site);
      const out = layer({
        ...shared,
        path: `${path}.out_proj`,
        outFeatures: features,
        partOf: path,
      });
      const part = (x: Value, i: number) => {
        const own = sliceAxis(into(x), { axis: 2, start: i * features, size: features });
        return reshape(own, [x.shape[0], -1, heads, headSize]);
      };
      return (x, rows = x) =>
        attend({
          q: part(x, 0),
          over: rows,
          keyValues: (rows) => ({ k: part(rows, 1), v: part(rows, 2) }),
          project: (y) => out(reshape(y, x.shape)),
          dropout,
        });
    },
    attention: ({ features, heads, keyHeads = heads, headSize, over = "tokens" }) =>
      visit.attention({
        path,
        kind: "attention",
        inFeatures: features,
        outFeatures: features,
        bias: false,
        attention: { heads, keyHeads, headSize, over, index: 0 },
      }),
  };
}
