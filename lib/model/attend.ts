/**
 * Attention in a pass: masks, caches, virtual tokens, bias and dropout.
 *
 * @module
 */
import { attention } from "../ops/attention.ts";
import { composedAttention } from "../ops/attention-decomposition.ts";
import { add, sub } from "../ops/elementwise.ts";
import { broadcast } from "../ops/broadcast.ts";
import { cacheUpdate } from "../ops/cache-update.ts";
import { concat } from "../ops/concat.ts";
import { constant } from "../ops/constant.ts";
import { input } from "../ops/input.ts";
import { iota } from "../ops/iota.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import type { AttentionLayout } from "./site.ts";

/** What an attention module hands over. */
export interface AttentionCall {
  /** Queries [B, T, H, D], rotated if at all. */
  readonly q: Value;
  /**
   * What its keys and values are made of [B, S, …]; none in a run that finds those of an encoder in
   * the cache.
   */
  readonly over: Value | undefined;
  /** Its keys and values [B, S, G, D] of any rows, not rotated. */
  keyValues(x: Value): KeyValues;
  /** Rotates keys. */
  rotate?(k: Value): Value;
  /** Its output projection, of [B, T, H, D]. */
  project(attended: Value): Value;
  /** Whether a token sees those up to itself only; true by default over tokens that have an order. */
  readonly causal?: boolean;
  /**
   * Whether padding sees tokens; true by default. What its own rows become matters where somebody
   * looks at them, as at a first token that is padding.
   */
  readonly paddingAttends?: boolean;
  /** How many tokens up to itself a token sees; all of them by default. */
  readonly window?: number | null;
  /** Factor of the dot products; 1/√D by default. */
  readonly scale?: number;
  /** What scores come near to but not above, by a tangent (soft capping); no such by default. */
  readonly cap?: number | null;
  /**
   * What is added to the scores [H or 1, T, S], from how far keys stand behind queries, `i32`
   * [T, S]: key position − query position.
   */
  bias?(distance: Value): Value;
  /** Share of the probabilities that training drops; 0 by default. */
  readonly dropout?: number;
}

/** Keys and values. */
export interface KeyValues {
  /** Keys. */
  readonly k: Value;
  /** Values. */
  readonly v: Value;
}

/** Keys and values of virtual tokens, which stand before those of each row. */
export interface PassPrefix {
  /** Number N of virtual tokens. */
  readonly length: number;
  /** Keys and values of one attention layer, each [N, heads of keys, size of a head]. */
  layer(index: number): KeyValues;
}

/** Cached keys and values of a pass. */
export interface PassCache {
  /** Number of cached positions that there is room for. */
  readonly capacity: number;
  /** Whether nothing is cached yet, so that virtual tokens have to be. */
  readonly first?: boolean;
}

/** What the tokens of a pass see of one another. */
export interface PassSequence {
  /** `i32` [B, T]: see `AttentionOptions.querySegments`. */
  readonly querySegments: Value;
  /** `i32` [B, T], or [B, capacity] with a cache. */
  readonly keySegments: Value;
  /** `i32` [1]: how many positions are cached. */
  readonly offset: Value;
  /** Keeps keys and values in states `cache.N.k` and `cache.N.v`. */
  readonly cache?: PassCache;
  /**
   * The same of a decoder's tokens; `offset` and `cache` are then theirs, and `cache` keeps what the
   * decoder takes from the encoder in states `memory.N.k` and `memory.N.v`.
   */
  readonly decoder?: Pick<PassSequence, "querySegments" | "keySegments">;
}

/** An attention module and the pass that it runs in. */
export interface Attending {
  /** What it attends to. */
  readonly rule: AttentionLayout;
  /** What it hands over. */
  readonly call: AttentionCall;
  /** Masks and cache of the pass. */
  readonly sequence: PassSequence;
  /** Virtual tokens before those of the pass. */
  readonly prefix: PassPrefix | undefined;
  /** Whether dropout is on. */
  readonly training: boolean;
  /** Dropout at a rate. */
  dropout(x: Value, rate: number): Value;
  /** Records the value that replaces a state. */
  update(state: string, value: Value): void;
}

/** What an attention module gives, after its output projection. */
export function attend(of: Attending): Value {
  const { rule, call } = of;
  const { q, window = null, scale, bias, cap } = call, { graph } = q;
  const causal = call.causal ?? (rule.over === "tokens" || rule.over === "decoderTokens");
  const { k, v, querySegments, keySegments, offset } = keysOf(of);
  const rest = { k, v, querySegments, keySegments, offset, causal, window, scale };
  const rate = of.training ? call.dropout ?? 0 : 0;
  if (!bias && cap == null && rate === 0) return call.project(attention(q, rest));
  const [t, s] = [q.shape[1], k.shape[1]];
  const at = add(iota(graph, [t, 1], { axis: 0 }), reshape(offset, [1, 1]));
  return call.project(composedAttention(q, {
    ...rest,
    cap,
    bias: bias?.(sub(iota(graph, [1, s], { axis: 1 }), at)),
    dropout: (p) => of.dropout(p, rate),
  }));
}

type Keys = KeyValues & Pick<PassSequence, "querySegments" | "keySegments" | "offset">;

function keysOf(of: Attending): Keys {
  const { rule: { over }, call, sequence } = of;
  const { decoder } = sequence;
  const start = constant(call.q.graph, 0, { shape: [1], dtype: "i32" });
  const make = () => {
    const { k, v } = call.keyValues(call.over!);
    return { k: call.rotate?.(k) ?? k, v };
  };
  if (over === "memory") {
    const { querySegments } = decoder!, { keySegments } = sequence;
    return { ...memory(of, make), querySegments, keySegments, offset: start };
  }
  if (over === "patches") {
    const made = make();
    const [querySegments, keySegments] = [call.q, made.k].map(({ graph, shape }) =>
      constant(graph, 1, { shape: shape.slice(0, 2), dtype: "i32" })
    );
    return { ...made, querySegments, keySegments, offset: start };
  }
  const own = over === "tokens" ? sequence : decoder!, { keySegments } = own;
  const querySegments = call.paddingAttends === false ? keySegments : own.querySegments;
  const keys = { ...make(), querySegments, keySegments };
  // Only what is written token by token has a cache and virtual tokens.
  const isWritten = over === (decoder ? "decoderTokens" : "tokens");
  return isWritten ? cached(of, { ...keys, offset: sequence.offset }) : { ...keys, offset: start };
}

/** Keys and values of what an encoder gave: made in the first run, and kept for the others. */
function memory(of: Attending, make: () => KeyValues): KeyValues {
  const { rule: { index, keyHeads, headSize }, call, sequence: { cache, keySegments } } = of;
  const { graph } = call.q;
  const shape = [...keySegments.shape, keyHeads, headSize];
  const held = (part: "k" | "v") =>
    input(graph, `memory.${index}.${part}`, { shape, dtype: "f32", role: "state" });
  if (!call.over) return { k: held("k"), v: held("v") };
  const made = make();
  const offset = constant(graph, 0, { shape: [1], dtype: "i32" });
  for (const part of cache ? ["k", "v"] as const : []) {
    of.update(`memory.${index}.${part}`, cacheUpdate(held(part), made[part], { offset }));
  }
  return made;
}

/** Keys and values behind those of virtual tokens, and in the cache if there is one. */
function cached(of: Attending, own: Keys): Keys {
  const { rule: { index }, sequence: { cache }, prefix } = of;
  const keys = prefix ? behindPrefix(own, { prefix, index }) : own;
  if (!cache) return keys;
  const write = (part: "k" | "v") => {
    const name = `cache.${index}.${part}`;
    const [b, , g, d] = own[part].shape;
    const shape = [b, cache.capacity, g, d];
    const old = input(own.offset.graph, name, { shape, dtype: "f32", role: "state" });
    const next = cacheUpdate(old, keys[part], { offset: own.offset });
    of.update(name, next);
    return next;
  };
  return { ...keys, keySegments: own.keySegments, k: write("k"), v: write("v") };
}

function behindPrefix(
  own: Keys,
  of: { readonly prefix: PassPrefix; readonly index: number },
): Keys {
  const { length } = of.prefix, front = of.prefix.layer(of.index);
  const join = (part: "k" | "v") => {
    const [b, , g, d] = own[part].shape;
    const every = broadcast(reshape(front[part], [1, -1, g, d]), [b, length, g, d]);
    return concat([every, own[part]], { axis: 1 });
  };
  const { graph, shape: [b] } = own.keySegments;
  const seen = constant(graph, 1, { shape: [b, length], dtype: "i32" });
  return {
    k: join("k"),
    v: join("v"),
    querySegments: own.querySegments,
    keySegments: concat([seen, own.keySegments], { axis: 1 }),
    offset: add(own.offset, length),
  };
}
