/**
 * What a family of models has to say about itself.
 *
 * @module
 */
import type { Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ForwardPass } from "./forward-pass.ts";
import type { ModelSignature } from "./signature.ts";
import type { Site } from "./site.ts";

/** The contents of a `config.json`. */
export type ModelConfig = Readonly<Record<string, unknown>>;

/** What a forward pass gets, all of one batch and length. */
export interface PassInputs {
  /** Token ids, `i32` [B, T]. */
  readonly ids: Value;
  /** Position of each token, `i32` [B, T]. */
  readonly positions: Value;
}

/** What the host computes from positions before each run. */
export interface HostInputs {
  /** Positions in row-major order. */
  readonly positions: Int32Array;
  /** B and T. */
  readonly shape: readonly [number, number];
  /**
   * Length of the whole sequence so far, cached tokens included; RoPE's dynamic scaling depends on
   * it.
   */
  readonly length: number;
}

/** How keys and values are shaped, for a cache. */
export interface CacheLayout {
  /** Number of attention layers. */
  readonly layers: number;
  /** Heads of keys and values. */
  readonly heads: number;
  /** Size of a head. */
  readonly headSize: number;
}

/**
 * One family of models. Registering another one is a file in `lib/architectures` and a line in its
 * registry.
 */
export interface Architecture {
  /** Name of the family. */
  readonly name: string;
  /** The `model_type`s of `config.json` that it serves. */
  readonly modelTypes: readonly string[];
  /** All sites in order of execution. */
  sites(config: ModelConfig): readonly Site[];
  /** Parameters that are the same tensor as another one: alias to source. */
  tied(config: ModelConfig): Readonly<Record<string, string>>;
  /** Keys of checkpoints that carry no weights (buffers). */
  readonly ignoredKeys: RegExp;
  /** Prefix that checkpoints of the headless model lack, such as `transformer.`. */
  readonly basePrefix: string;
  /** Shape of the cache of keys and values. */
  cache(config: ModelConfig): CacheLayout;
  /**
   * Traces the model; gives `lastHiddenState` [B, T, D] and `logits` [B, T, V], or [B, R, V] where
   * the pass wants R rows only (see {@link ForwardPass.headRows}).
   */
  forward(pass: ForwardPass, inputs: PassInputs): Readonly<Record<string, Value>>;
  /** Inputs that the traced model asks for with {@link ForwardPass.hostInput}. */
  hostInputs(config: ModelConfig, inputs: HostInputs): Readonly<Record<string, Tensor>>;
  /**
   * How many positions it has learned, where they are a table; without it there is no end to them.
   */
  positionLimit?(config: ModelConfig): number;
  /**
   * What its models take and give; without it they do as causal language models, which take token
   * ids and predict the next ones.
   */
  signature?(config: ModelConfig): ModelSignature;
  /** Vocabulary size. */
  vocabularySize(config: ModelConfig): number;
  /** Standard deviation of new weights. */
  initializerRange(config: ModelConfig): number;
}
