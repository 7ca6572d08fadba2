/**
 * From a model and the size of a batch to a program.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { ForwardPass, PassCache } from "../model/forward-pass.ts";
import { createForwardPass } from "../model/forward-pass.ts";
import type { HostInputs } from "../model/architecture.ts";
import { input } from "../ops/input.ts";
import { createGraph, type Graph, type Value } from "../ops/value.ts";
import { type Program, programOf } from "../program/program.ts";
import { BOOLEAN, checkOptions, FUNCTION, NAMES, type OptionRules, wholeFrom } from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { adaptationOf, ROW_ADAPTERS } from "./adaptation.ts";
import { type AnyModel, baseOf } from "./peft-model.ts";

/** What a model is traced for. */
export interface TraceOptions {
  /** Rows of a batch. */
  readonly batch: number;
  /** Tokens in a row. */
  readonly length: number;
  /** Number of positions in a cache of keys and values; none without it. */
  readonly cache?: PassCache;
  /**
   * Names of the adapters that the rows of a mixed batch get; the program then takes `rowAdapters`,
   * the place of each row's adapter among them.
   */
  readonly mixed?: readonly string[];
  /**
   * Number of tokens in a row that logits are wanted for; all of them without it. The program takes
   * their places as `logitRows`.
   */
  readonly logitRows?: number;
  /** Dropout is on: the program takes a `seed`. */
  readonly dropout?: boolean;
  /** Stands for leaves and parameters that are being trained; gets the graph and the name. */
  readonly trained?: (graph: Graph, name: string) => Value | undefined;
  /**
   * Makes the program's outputs from the model's (`logits`, `lastHiddenState`); all of them by
   * default.
   */
  readonly outputs?: (
    pass: ForwardPass,
    values: Readonly<Record<string, Value>>,
  ) => Readonly<Record<string, Value>>;
}

const TRACE: OptionRules<TraceOptions> = {
  batch: wholeFrom(1),
  length: wholeFrom(1),
  cache: null,
  mixed: NAMES,
  logitRows: wholeFrom(1),
  dropout: BOOLEAN,
  trained: FUNCTION,
  outputs: FUNCTION,
};

/** A program of a model and what to run it with. */
export interface TracedModel {
  /**
   * The program. Its data inputs are `ids`, `positions`, `querySegments`, `keySegments`, `offset`,
   * perhaps `logitRows`, `rowAdapters` and `seed`, and what the architecture adds.
   */
  readonly program: Program;
  /** Weights and leaves by input name. */
  readonly bindings: Readonly<Record<string, Tensor>>;
}

/**
 * Traces a model for batches of one size. Equal structures and sizes give programs with equal keys.
 *
 * @throws {ValueError} `NOT_A_MODEL` for what is no model, and for an option that cannot be.
 *
 * @example
 * ```ts
 * import { cost, createModel, traceModel } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = model.device;
 * const { program } = traceModel(model, { batch: 1, length: 8 });
 * console.log(cost(program).flops > 1e5); // true
 * ```
 */
export function traceModel(model: AnyModel, options: TraceOptions): TracedModel {
  const base = baseOf(model);
  checkOptions(options, TRACE, { code: "TRACE_OPTION", of: "traceModel" });
  const { batch: b, length: t, cache, trained } = options;
  if (b === undefined || t === undefined) {
    throw new ValueError("TRACE_OPTION", "traceModel needs the batch and the length of its rows.");
  }
  const graph = createGraph();
  const ints = (name: string, shape: readonly number[]) =>
    input(graph, name, { shape, dtype: "i32" });
  const pass = createForwardPass(graph, base, {
    adaptation: model.type === "peft" ? adaptationOf(model, options) : undefined,
    trained: trained && ((name) => trained(graph, name)),
    seed: options.dropout ? ints("seed", [1]) : undefined,
    querySegments: ints("querySegments", [b, t]),
    keySegments: ints("keySegments", [b, cache?.capacity ?? t]),
    offset: ints("offset", [1]),
    logitRows: options.logitRows === undefined
      ? undefined
      : ints("logitRows", [b, options.logitRows]),
    cache,
  });
  const values = base.architecture.forward(pass, {
    ids: ints("ids", [b, t]),
    positions: ints("positions", [b, t]),
  });
  const outputs: Record<string, Value> = { ...(options.outputs?.(pass, values) ?? values) };
  const updates: Record<string, string> = {};
  for (const [state, value] of pass.cacheUpdates) {
    outputs[`next.${state}`] = value;
    updates[state] = `next.${state}`;
  }
  return { program: programOf(outputs, updates), bindings: Object.fromEntries(pass.bindings) };
}

/** What a run of a traced model needs beside its bindings, all row-major and of the traced size. */
export interface RunInputs {
  /** Token ids [B, T]. */
  readonly ids: Int32Array;
  /** Positions [B, T]. */
  readonly positions: Int32Array;
  /** See `AttentionOptions.querySegments`; ones by default. */
  readonly querySegments?: Int32Array;
  /** See `AttentionOptions.keySegments`. */
  readonly keySegments: Int32Array;
  /** How many positions are cached; 0 by default. */
  readonly offset?: number;
  /** Length of the whole sequence, which some RoPE scalings depend on; T by default. */
  readonly sequenceLength?: number;
  /**
   * Places of the rows that logits are wanted for [B, R], each counted through the whole batch: b·T
   * + t.
   */
  readonly logitRows?: Int32Array;
  /** Place of each row's adapter in a mixed batch [B]; −1 for none. */
  readonly rowAdapters?: Int32Array;
  /** Seed of the dropout masks. */
  readonly seed?: number;
}

/** The data inputs of a run as tensors, only those that the program has. */
export function runInputs(
  model: AnyModel,
  options:
    & { readonly program: Program; readonly batch: number; readonly length: number }
    & RunInputs,
): Record<string, Tensor> {
  const { program, batch: b, length: t, ids, positions, offset = 0 } = options;
  const base = baseOf(model);
  const host: HostInputs = {
    positions,
    shape: [b, t],
    length: options.sequenceLength ?? offset + t,
  };
  const all: Record<string, Tensor> = {
    ids: tensor(ids, { shape: [b, t] }),
    positions: tensor(positions, { shape: [b, t] }),
    querySegments: tensor(options.querySegments ?? new Int32Array(b * t).fill(1), {
      shape: [b, t],
    }),
    keySegments: tensor(options.keySegments, { shape: [b, options.keySegments.length / b] }),
    offset: tensor(Int32Array.of(offset)),
    ...(options.logitRows && {
      logitRows: tensor(options.logitRows, { shape: [b, options.logitRows.length / b] }),
    }),
    ...(options.rowAdapters && { [ROW_ADAPTERS]: tensor(options.rowAdapters) }),
    seed: tensor(Int32Array.of(options.seed ?? 0)),
    ...base.architecture.hostInputs(base.config, host),
  };
  return Object.fromEntries(Object.entries(all).filter(([name]) => program.inputs.has(name)));
}
