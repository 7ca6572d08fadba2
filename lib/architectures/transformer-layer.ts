/**
 * One layer of a transformer: attention, in a decoder perhaps over an encoder's output too, and
 * feed forward.
 *
 * @module
 */
import type { ArchitecturePass } from "../model/architecture.ts";
import type { Layer, Modules } from "../model/modules.ts";
import type { AttentionLayout } from "../model/site.ts";
import { add, mul } from "../ops/elementwise.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import type { Activation } from "./activations.ts";
import {
  attentionLayer,
  type AttentionNames,
  type AttentionPlace,
  type AttentionRule,
} from "./attention-layer.ts";
import { declared } from "./roles.ts";

/** Names of the modules of a layer, in torch's order. */
export interface LayerNames {
  /** The norm of what attention gets. */
  readonly beforeAttention?: string;
  /** Attention. */
  readonly attention: AttentionNames;
  /** The norm of what attention gave, added. */
  readonly afterAttention?: string;
  /** The norm of what attention to an encoder gets. */
  readonly beforeCross?: string;
  /** Attention to an encoder. */
  readonly cross?: AttentionNames;
  /** The norm of what that gave, added. */
  readonly afterCross?: string;
  /** The norm of what the feed forward gets. */
  readonly beforeFeed?: string;
  /** The gate of a gated feed forward. */
  readonly gate?: string;
  /** Gate and values of one layer. */
  readonly gateUp?: string;
  /** Into the feed forward. */
  readonly up?: string;
  /** Out of it. */
  readonly down: string;
  /** The norm of what the feed forward gave, added. */
  readonly afterFeed?: string;
}

/** How a layer runs. */
export interface LayerRule extends AttentionRule {
  /** Names of the modules of a layer. */
  layer(index: number): LayerNames;
  /** Size between the layers of the feed forward. */
  readonly inner: number;
  /** Of the feed forward. */
  readonly activation: Activation;
  /** Whether attention and feed forward get the same, and both are added to it. */
  readonly parallel?: boolean;
  /** Whether they are added to what their norms give, not to what those get. */
  readonly addsToNormed?: boolean;
  /** Another attention than that of most. */
  readonly attentionLayer?: typeof attentionLayer;
  /** Shares that training drops: 0 by default. */
  readonly dropout: AttentionRule["dropout"] & {
    /** Of what attention and feed forward add. */
    readonly residual?: number;
    /** Of what attention adds, where it is another. */
    readonly attended?: number;
    /** Inside the feed forward. */
    readonly inner?: number;
    /** Of what both add where they are parallel. */
    readonly sum?: number;
  };
}

/** What one run of a layer gets. */
export interface LayerRun extends Omit<AttentionPlace, "over"> {
  /** The hidden state. */
  readonly x: Value;
  /** What an encoder made. */
  readonly memory?: Value;
}

/** A layer as a part of a body. */
export interface TransformerLayer {
  /** Its table of distances, where it has one. */
  readonly distances?: Layer;
  /** Runs it. */
  run(pass: ArchitecturePass, inputs: LayerRun): Value;
}

/** Declares a layer. */
export function transformerLayer(
  m: Modules,
  c: LayerRule,
  { layer, over }: { readonly layer: number; readonly over: AttentionLayout["over"] },
): TransformerLayer {
  const { hidden, inner, stored } = c, bias = c.bias?.feed;
  const { residual = 0, attended: rate = residual, inner: within = 0, sum = 0 } = c.dropout;
  const norm = (name: string) => m.norm(name, hidden, c.norm);
  const into = (out: number) => (name: string) =>
    m.linear(name, { in: hidden, out }, { bias, stored });
  const made = declared(c.layer(layer), {
    beforeAttention: norm,
    attention: (names: AttentionNames) =>
      (c.attentionLayer ?? attentionLayer)(m, c, { names, over, layer }),
    afterAttention: norm,
    beforeCross: norm,
    cross: (names: AttentionNames) => attentionLayer(m, c, { names, over: "memory", layer }),
    afterCross: norm,
    beforeFeed: norm,
    gate: into(inner),
    gateUp: into(2 * inner),
    up: into(inner),
    down: (name: string) => m.linear(name, { in: inner, out: hidden }, { bias, stored }),
    afterFeed: norm,
  });
  const opened = (x: Value) => {
    if (!made.gateUp) {
      const y = c.activation((made.gate ?? made.up!)(x));
      return made.gate ? mul(y, made.up!(x)) : y;
    }
    const both = made.gateUp(x);
    const [gate, up] = [0, inner].map((start) => sliceAxis(both, { axis: 2, start, size: inner }));
    return mul(c.activation(gate), up);
  };
  const normed = (norm: Layer | undefined, x: Value) => norm?.(x) ?? x;
  return {
    distances: made.attention!.distances,
    run(pass, { x, memory, ...place }) {
      const added = (y: Value) => pass.dropout(y, rate);
      const feed = (x: Value) =>
        pass.dropout(made.down!(pass.dropout(opened(x), within)), residual);
      const first = normed(made.beforeAttention, x),
        attended = added(made.attention!.run(pass, first, { ...place, over: first }));
      if (c.parallel) {
        const fed = feed(made.beforeFeed?.(x) ?? first);
        return add(x, pass.dropout(add(attended, fed), sum));
      }
      let h = normed(made.afterAttention, add(c.addsToNormed ? first : x, attended));
      if (made.cross) {
        const y = made.cross.run(pass, normed(made.beforeCross, h), { over: memory });
        h = normed(made.afterCross, add(h, added(y)));
      }
      const second = normed(made.beforeFeed, h);
      return normed(made.afterFeed, add(c.addsToNormed ? second : h, feed(second)));
    },
  };
}
