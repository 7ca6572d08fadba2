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
import type { Value } from "../ops/value.ts";
import {
  attentionLayer,
  type AttentionNames,
  type AttentionPlace,
  type AttentionRule,
} from "./attention-layer.ts";
import {
  type FeedForward,
  feedForward,
  type FeedNames,
  type FeedRule,
  type Route,
} from "./feed-forward.ts";
import { declared } from "./roles.ts";

/** Names of the modules of a layer, in torch's order. */
export interface LayerNames {
  /** The norm of what attention gets. */
  readonly beforeAttention?: string;
  /** Attention. */
  readonly attention: AttentionNames;
  /** The norm of what attention gives, before it is added. */
  readonly attended?: string;
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
  /** The feed forward. */
  readonly feed: FeedNames;
  /** The norm of what the feed forward gives, before it is added. */
  readonly fed?: string;
  /** The norm of what the feed forward gave, added. */
  readonly afterFeed?: string;
}

/** How a layer runs. */
export interface LayerRule extends AttentionRule, FeedRule {
  /** Names of the modules of a layer. */
  layer(index: number): LayerNames;
  /** Whether attention and feed forward get the same, and both are added to it. */
  readonly parallel?: boolean;
  /** Whether they are added to what their norms give, not to what those get. */
  readonly addsToNormed?: boolean;
  /** Another attention than that of most. */
  readonly attentionLayer?: typeof attentionLayer;
  /** Another feed forward than that of most. */
  feedForward?(
    m: Modules,
    c: LayerRule,
    of: { readonly names: FeedNames; readonly layer: number },
  ): FeedForward;
  /** Which linear layers have a bias; all by default. */
  readonly bias?: AttentionRule["bias"] & FeedRule["bias"];
  /** Factor of what attention and feed forward add; 1 by default. */
  readonly residualScale?: number;
  /** Shares that training drops: 0 by default. */
  readonly dropout: AttentionRule["dropout"] & FeedRule["dropout"] & {
    /** Of what attention and feed forward add. */
    readonly residual?: number;
    /** Of what attention adds, where it is another. */
    readonly attended?: number;
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
  /** Takes the ways of tokens through experts. */
  readonly routes?: Route[];
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
  const { hidden, residualScale = 1, dropout: { residual = 0, attended = residual, sum = 0 } } = c;
  const norm = (name: string) => m.norm(name, hidden, c.norm);
  const made = declared(c.layer(layer), {
    beforeAttention: norm,
    attention: (names: AttentionNames) =>
      (c.attentionLayer ?? attentionLayer)(m, c, { names, over, layer }),
    attended: norm,
    afterAttention: norm,
    beforeCross: norm,
    cross: (names: AttentionNames) => attentionLayer(m, c, { names, over: "memory", layer }),
    afterCross: norm,
    beforeFeed: norm,
    feed: (names: FeedNames) => (c.feedForward ?? feedForward)(m, c, { names, layer }),
    fed: norm,
    afterFeed: norm,
  });
  const normed = (norm: Layer | undefined, x: Value) => norm?.(x) ?? x;
  return {
    distances: made.attention!.distances,
    run(pass, { x, memory, routes = [], ...place }) {
      const scaled = (y: Value) => residualScale === 1 ? y : mul(y, residualScale);
      const added = (y: Value) => scaled(pass.dropout(normed(made.attended, y), attended));
      const feed = (x: Value) =>
        scaled(pass.dropout(normed(made.fed, made.feed!(x, { pass, routes })), residual));
      const first = normed(made.beforeAttention, x);
      const y = added(made.attention!.run(pass, first, { ...place, over: first }));
      if (c.parallel) {
        const fed = feed(made.beforeFeed?.(x) ?? first);
        return add(x, pass.dropout(add(y, fed), sum));
      }
      let h = normed(made.afterAttention, add(c.addsToNormed ? first : x, y));
      if (made.cross) {
        const y = added(made.cross.run(pass, normed(made.beforeCross, h), { over: memory }));
        h = normed(made.afterCross, add(h, y));
      }
      const second = normed(made.beforeFeed, h);
      return normed(made.afterFeed, add(c.addsToNormed ? second : h, feed(second)));
    },
  };
}
