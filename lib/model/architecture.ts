/**
 * What a family of models has to say about itself.
 *
 * @module
 */
import type { InputSpec } from "../ops/input.ts";
import type { Graph, Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { BatchInput } from "./batch-input.ts";
import type { Layer, Modules } from "./modules.ts";
import type { TaskType } from "./task-type.ts";

/** The contents of a `config.json`. */
export type ModelConfig = Readonly<Record<string, unknown>>;

/** What a forward pass gets, all of one batch. */
export interface PassInputs {
  /** Token ids, `i32` [B, T], of a model that reads text. */
  readonly ids: Value;
  /** Position of each token, and of each virtual one before them, `i32` [B, N+T]. */
  readonly positions: Value;
  /** Token ids of the decoder, `i32` [B, T], where there is one beside an encoder. */
  readonly decoderIds?: Value;
}

/** Named values that a model gives. */
export type PassOutputs = Readonly<Record<string, Value>>;

/** What an architecture uses to build the program, beside its own modules. */
export interface ArchitecturePass {
  /** The graph that is being traced. */
  readonly graph: Graph;
  /** Whether dropout is on. */
  readonly training: boolean;
  /** The rows of the token embedding [B, T, D] with those that adapters put before them. */
  embedded(rows: Value): Value;
  /** What an encoder gives; it does not run where a cache holds what is made of it. */
  encoded(run: () => Value): Value | undefined;
  /** A part of the batch, by its own name. */
  batchInput(spec: Pick<BatchInput, "name" | "axes" | "dtype">): Value;
  /** An input that the architecture's `hostInputs` computes, by name. */
  hostInput(name: string, spec: InputSpec): Value;
  /** Which tokens are no padding, `i32` [B, T]: 0 for those that are; of all that are cached, with a cache. */
  readonly segments: Value;
  /** How many tokens of what is written are cached, `i32` [1]. */
  readonly offset: Value;
  /** Marks a value, such as the input of a layer, that rematerialisation keeps; gives it back. */
  boundary(x: Value): Value;
  /** Dropout where the pass is a training one and the rate is not 0. */
  dropout(x: Value, rate: number): Value;
  /**
   * Adds a number, shape [], to the loss of a batch that is trained on; of those under one name,
   * their mean.
   */
  penalize(x: Value, meanOf?: string): void;
  /**
   * Random numbers in a training pass, from 0 up to 1 or normal ones, or those that the batch brings
   * as `noise.<name>`.
   */
  noise(
    name: string,
    shape: readonly number[],
    distribution?: "uniform" | "normal",
  ): Value;
  /**
   * Of the last hidden state [B, T, D] those rows that logits are wanted for, [B, R, D]; a language
   * model calls it right before its head.
   */
  headRows(h: Value): Value;
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

/** A model without its head: its modules are declared, and can run. */
export interface Body {
  /** Size of the hidden state. */
  readonly hidden: number;
  /** The token embedding, which a head may be tied to. */
  readonly embedding?: Layer;
  /** Traces it; gives `lastHiddenState` [B, T, D] and what else it has. */
  run(pass: ArchitecturePass, inputs: PassInputs): PassOutputs;
}

/** What stands after a body. */
export interface Head {
  /** Declares its modules, and gives what adds its outputs to those of the body. */
  (m: Modules, of: { readonly config: ModelConfig; readonly body: Body }): (
    pass: ArchitecturePass,
    outputs: PassOutputs,
    inputs: PassInputs,
  ) => PassOutputs;
  /** Where the body is in a model with this head, where it is not at the architecture's `bodyPath`. */
  readonly bodyPath?: string;
  /** A token that each row has to have. */
  needs?(config: ModelConfig): number;
}

/**
 * Experts in one parameter: its name beside `experts.`, and what its parts are called where each
 * expert has them for itself, as in `experts.3.up_proj.weight`.
 */
export interface StackedKeys {
  /** Names of the parts in their order along the outputs, by name of the parameter. */
  readonly parts: Readonly<Record<string, readonly string[]>>;
  /** Whether the targets of adapters by such names, or that of the router, mean the parameters. */
  readonly targets: boolean;
}

/**
 * One family of models: a definition that is written once, run to learn what modules there are and
 * run again to make programs. Registering another one is a file in `lib/architectures` and a line in
 * its registry.
 */
export interface Architecture {
  /** Name of the family. */
  readonly name: string;
  /** The `model_type`s of `config.json` that it serves. */
  readonly modelTypes: readonly string[];
  /** Where the body is in a model with a head, such as `model`; empty for its root. */
  readonly bodyPath: string;
  /** Fills in what a config leaves open, where it would mean something else after a change. */
  completeConfig?(config: ModelConfig): ModelConfig;
  /** Declares the body's modules in the order in which torch constructs them. */
  body(m: Modules, config: ModelConfig, task: TaskType): Body;
  /** Heads by task, the usual task first; `null` for a task that has none. */
  readonly heads: Readonly<Partial<Record<TaskType, Head | null>>>;
  /**
   * How transformers' names of its classes end by task, where they do not as in most families, such
   * as `ForCausalLM`.
   */
  readonly classEndings?: Readonly<Partial<Record<TaskType, string>>>;
  /** What a decoder begins with that reads a row one to the right, where it is not the config's start. */
  readonly decoderStart?: "last token";
  /** Keys of checkpoints that carry no weights (buffers); none by default. */
  readonly ignoredKeys?: RegExp;
  /**
   * Parts of parameters' names that are others in files: the model's own, and that of files. They are
   * replaced in this order on reading, and backwards on writing.
   */
  readonly fileNames?: readonly (readonly [own: string, inFiles: string])[];
  /** What older checkpoints call parameters otherwise: pattern and replacement. */
  readonly oldKeys?: readonly (readonly [pattern: RegExp, name: string])[];
  /** What older checkpoints hold expert by expert. */
  readonly stacked?: StackedKeys;
  /**
   * What rows are, where they are not text alone: images, or both. Adapters can put no virtual tokens
   * before such rows. Token ids, mask and positions by default.
   */
  reads?(config: ModelConfig): readonly BatchInput[];
  /** Parts of a batch beside these and labels. */
  inputs?(config: ModelConfig): readonly BatchInput[];
  /**
   * How many positions a config allows, where they are no table of a site; without it there is no
   * end.
   */
  maxPositions?(config: ModelConfig): number;
  /**
   * Tokens that default positions do not count, and that get −1: padding, or those of an id; all are
   * counted without it.
   */
  uncounted?(config: ModelConfig): "padding" | number | undefined;
  /** Inputs that the traced model asks for with {@link ArchitecturePass.hostInput}. */
  hostInputs?(config: ModelConfig, inputs: HostInputs): Readonly<Record<string, Tensor>>;
  /** Standard deviation of new weights; the config's `initializer_range`, or 0.02, by default. */
  initializerRange?(config: ModelConfig): number;
}
