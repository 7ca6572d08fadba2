/**
 * The attention of one layer. What families change of it is data.
 *
 * @module
 */
import type { ArchitecturePass } from "../model/architecture.ts";
import type { Layer, Modules } from "../model/modules.ts";
import type { AttentionLayout, NormRule } from "../model/site.ts";
import { max, min } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import type { DistanceBuckets } from "./distance-bias.ts";
import { declared } from "./roles.ts";
import { type FusedHeads, fusedPart, joinHeads, type Part, splitHeads } from "./split-heads.ts";

/** Names of its modules, in torch's order. */
export interface AttentionNames {
  /** What holds them. */
  readonly at: string;
  /** The attention module, where that is a place inside. */
  readonly self?: string;
  /** One layer for queries, keys and values. */
  readonly qkv?: string;
  /** Queries. */
  readonly q?: string;
  /** Keys. */
  readonly k?: string;
  /** Values. */
  readonly v?: string;
  /** The output projection. */
  readonly output: string;
  /** The norm of queries. */
  readonly qNorm?: string;
  /** The norm of keys. */
  readonly kNorm?: string;
  /** The table of distances. */
  readonly distances?: string;
}

/** How it attends. */
export interface AttentionRule {
  /** Size of the hidden state. */
  readonly hidden: number;
  /** Heads of queries. */
  readonly heads: number;
  /** Heads of keys and values; as many by default. */
  readonly keyHeads?: number;
  /** Size of a head. */
  readonly headSize: number;
  /** How heads lie in what one layer gives for all three. */
  readonly fused?: FusedHeads;
  /** How all norms normalise; a LayerNorm has a bias by default. */
  readonly norm: NormRule & { readonly bias?: boolean };
  /** Whether the norms of queries and keys are over all heads; over each by default. */
  readonly normsAllHeads?: boolean;
  /** Which linear layers have a bias; all by default. */
  readonly bias?: {
    readonly qkv?: boolean;
    readonly output?: boolean;
  };
  /** How linear weights are stored; [out, in] by default. */
  readonly stored?: "in-out";
  /** Bound of queries, keys and values; none by default. */
  readonly clip?: number | null;
  /** Whether tokens see those up to themselves only; true by default. */
  readonly causal?: boolean;
  /** How tables of distances share their rows. */
  readonly distances?: Omit<DistanceBuckets, "bidirectional">;
  /** Factor of the dot products in a layer; 1/√D by default. */
  scale?(layer: number): number | undefined;
  /** What scores come near to but not above; no such by default. */
  readonly cap?: number | null;
  /** How many tokens up to itself a token sees in a layer; all by default. */
  window?(layer: number): number | null;
  /** What a layer adds to scores, by the distances of keys from queries: see `AttentionCall.bias`. */
  scoreBias?(layer: number): ((distance: Value) => Value) | undefined;
  /** Share of the probabilities that training drops. */
  readonly dropout: { readonly attention: number };
}

/** What one run of it gets. */
export interface AttentionPlace {
  /** What keys and values are of; none where a cache holds them. */
  readonly over: Value | undefined;
  /** Rotates queries and keys. */
  rotate?(x: Value): Value;
  /** What is added to scores. */
  bias?(distance: Value): Value;
}

/** The attention of a layer. */
export interface AttentionLayer {
  /** Its table of distances, where it has one. */
  readonly distances?: Layer;
  /** Runs it. */
  run(pass: ArchitecturePass, x: Value, place: AttentionPlace): Value;
}

/** Declares it. */
export function attentionLayer(
  m: Modules,
  c: AttentionRule,
  of: {
    readonly names: AttentionNames;
    readonly over: AttentionLayout["over"];
    readonly layer: number;
  },
): AttentionLayer {
  const { at: path, self, ...names } = of.names, at = m.at(path);
  const { hidden, heads, keyHeads = heads, headSize, stored } = c;
  const attend = (self ? at.at(self) : at).attention({
    features: hidden,
    heads,
    keyHeads,
    headSize,
    over: of.over,
  });
  const into = (count: number) => (name: string) =>
    at.linear(name, { in: hidden, out: count * headSize }, { bias: c.bias?.qkv, stored });
  const norm = (count: number) => (name: string) =>
    at.norm(name, c.normsAllHeads ? count * headSize : headSize, c.norm);
  const made = declared(names, {
    qkv: into(heads + 2 * keyHeads),
    q: into(heads),
    k: into(keyHeads),
    v: into(keyHeads),
    output: (name: string) =>
      at.linear(name, { in: heads * headSize, out: hidden }, { bias: c.bias?.output, stored }),
    qNorm: norm(heads),
    kNorm: norm(keyHeads),
    distances: (name: string) => at.embedding(name, { rows: c.distances!.buckets, size: heads }),
  });
  const bounded = (x: Value) => c.clip ? min(max(x, -c.clip), c.clip) : x;
  const part = (name: Part, x: Value) => {
    const count = name === "q" ? heads : keyHeads, own = made[name];
    const y = own
      ? splitHeads(bounded(own(x)), count)
      : fusedPart(bounded(made.qkv!(x)), name, { heads, keyHeads, ...c.fused });
    const norm = name === "q" ? made.qNorm : name === "k" ? made.kNorm : undefined;
    if (!norm) return y;
    return c.normsAllHeads ? splitHeads(norm(joinHeads(y)), count) : norm(y);
  };
  const window = c.window?.(of.layer), scale = c.scale?.(of.layer);
  const scoreBias = c.scoreBias?.(of.layer);
  return {
    distances: made.distances,
    run: (_pass, x, { over, rotate, bias }) =>
      attend({
        q: rotate?.(part("q", x)) ?? part("q", x),
        over,
        keyValues: (x) => ({ k: part("k", x), v: part("v", x) }),
        rotate,
        project: (y) => made.output!(joinHeads(y)),
        causal: of.over !== "memory" && c.causal !== false,
        window,
        scale,
        cap: c.cap,
        bias: bias ?? scoreBias,
        dropout: c.dropout.attention,
      }),
  };
}
