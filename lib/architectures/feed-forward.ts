/**
 * The feed forward of one layer, gated or not.
 *
 * @module
 */
import type { ArchitecturePass } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { mul } from "../ops/elementwise.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import type { Activation } from "../ops/activations.ts";
import { declared } from "./roles.ts";

/** Names of its modules, in torch's order. */
export interface FeedNames {
  /** What holds them; the layer by default. */
  readonly at?: string;
  /** The gate. */
  readonly gate?: string;
  /** Gate and values of one layer. */
  readonly gateUp?: string;
  /** Values. */
  readonly up?: string;
  /** Out of it. */
  readonly down: string;
}

/** What it is like. */
export interface FeedRule {
  /** Size of the hidden state. */
  readonly hidden: number;
  /** Size between its layers. */
  readonly inner: number;
  /** Of the gate, or of all where there is none. */
  readonly activation: Activation;
  /** Whether its layers have a bias; true by default. */
  readonly bias?: { readonly feed?: boolean };
  /** How linear weights are stored; [out, in] by default. */
  readonly stored?: "in-out";
  /** Shares that training drops. */
  readonly dropout: {
    /** Between its layers; 0 by default. */
    readonly inner?: number;
  };
}

/** Where the tokens of a layer go that has experts. */
export interface Route {
  /** Shares of the experts in each token [T, E], which sum up to 1. */
  readonly shares: Value;
  /** 1 where a token goes through an expert [T, E]. */
  readonly taken: Value;
}

/** What one run of a feed forward gets. */
export interface FeedPlace {
  /** The pass. */
  readonly pass: ArchitecturePass;
  /** Takes the ways of tokens, layer by layer. */
  readonly routes: Route[];
}

/** How it runs. */
export type FeedForward = (x: Value, at: FeedPlace) => Value;

/** Declares it. */
export function feedForward(
  m: Modules,
  c: FeedRule,
  { names: { at, ...names } }: { readonly names: FeedNames; readonly layer: number },
): FeedForward {
  const { hidden, inner, stored, dropout } = c, options = { bias: c.bias?.feed, stored };
  const place = at ? m.at(at) : m;
  const into = (out: number) => (name: string) => place.linear(name, { in: hidden, out }, options);
  const made = declared(names, {
    gate: into(inner),
    gateUp: into(2 * inner),
    up: into(inner),
    down: (name: string) => place.linear(name, { in: inner, out: hidden }, options),
  });
  const opened = (x: Value) => {
    if (!made.gateUp) return [made.gate, made.up].flatMap((layer) => layer ? [layer(x)] : []);
    const both = made.gateUp(x);
    return [0, inner].map((start) => sliceAxis(both, { axis: 2, start, size: inner }));
  };
  return (x, { pass }) => {
    const [first, second] = opened(x), active = c.activation(first);
    return made.down!(pass.dropout(second ? mul(active, second) : active, dropout.inner ?? 0));
  };
}
