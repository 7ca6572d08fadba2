/**
 * From a model and the size of a batch to a program.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { HostInputs } from "../model/architecture.ts";
import type { PassCache } from "../model/attend.ts";
import { type Adaptation, createForwardPass, type ForwardPass } from "../model/forward-pass.ts";
import { readsText, writtenSequence } from "../model/model-graph.ts";
import { runModel } from "../model/run-model.ts";
import type { Site } from "../model/site.ts";
import { constant } from "../ops/constant.ts";
import { input } from "../ops/input.ts";
import { createGraph, type Graph, type Value } from "../ops/value.ts";
import { type Program, programOf } from "../program/program.ts";
import { taskFor } from "../tasks/mod.ts";
import { BOOLEAN, checkOptions, FUNCTION, NAMES, type OptionRules, wholeFrom } from "../options.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { adaptationOf, ROW_ADAPTERS } from "./adaptation.ts";
import { type AnyModel, baseOf, virtualTokens } from "./peft-model.ts";

/** What a model is traced for. */
export interface TraceOptions {
  /** Rows of a batch. */
  readonly batch: number;
  /** Tokens in a row, for a model that reads text. */
  readonly length?: number;
  /** Sizes of other axes of a batch, by name; `images` are as many as rows by default. */
  readonly axes?: Readonly<Record<string, number>>;
  /**
   * Tokens in a row of the decoder, for a model that has one beside an encoder; 1 by default, or
   * `length` where it reads the text again.
   */
  readonly decoderLength?: number;
  /**
   * How many virtual tokens adapters put before those of each row, and where: among the embedded
   * tokens, or in the cache of keys and values. Of those among the embedded tokens the caller
   * prepares positions and segments as well, so that these are N+T long; ids are T long.
   */
  readonly virtual?: VirtualRows;
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
  /** Dropout is on: the program takes a `seed`, and the number of its `firstRow`. */
  readonly dropout?: boolean;
  /** What adapters draw at random in training comes as inputs `noise.<name>`. */
  readonly noise?: boolean;
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
  /** Is told what goes into each site and what comes out of it. */
  readonly observe?: (site: Site, x: Value, y: Value) => void;
  /** States beside the cache that a run replaces, by name; asked for after `outputs`. */
  readonly updates?: () => Readonly<Record<string, Value>>;
}

const TRACE: OptionRules<TraceOptions> = {
  batch: wholeFrom(1),
  length: wholeFrom(1),
  axes: null,
  decoderLength: wholeFrom(1),
  virtual: null,
  cache: null,
  mixed: NAMES,
  logitRows: wholeFrom(1),
  dropout: BOOLEAN,
  noise: BOOLEAN,
  trained: FUNCTION,
  outputs: FUNCTION,
  observe: FUNCTION,
  updates: FUNCTION,
};

/** Virtual tokens that adapters put before those of each row. */
export interface VirtualRows {
  /** How many. */
  readonly count: number;
  /** Where. */
  readonly place: "embeddings" | "cache";
}

/** How many virtual tokens a model's active adapters put before those of each row, and where. */
export function virtualRows(
  model: AnyModel,
  options: Pick<TraceOptions, "mixed"> = {},
): VirtualRows {
  const adaptation = model.type === "peft" ? adaptationOf(model, options) : undefined;
  return {
    // A mixed batch takes none.
    count: options.mixed ? 0 : virtualTokens(model),
    place: adaptation?.embeds ? "embeddings" : "cache",
  };
}

/** A program of a model and what to run it with. */
export interface TracedModel {
  /**
   * The program. Its data inputs are `ids`, `positions`, `querySegments`, `keySegments`, `offset`,
   * perhaps `logitRows`, `rowAdapters` and `seed`, what the architecture adds, and with a decoder
   * beside an encoder `decoderInputIds` and `decoderAttentionMask`; `offset` and a cache are then
   * the decoder's.
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
 * import { cost, tinyModel, traceModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * const { program } = traceModel(model, { batch: 1, length: 8 });
 * console.log(cost(program).flops > 1e5); // true
 * ```
 */
export function traceModel(model: AnyModel, options: TraceOptions): TracedModel {
  const base = baseOf(model);
  checkOptions(options, TRACE, { code: "TRACE_OPTION", of: "traceModel" });
  const { batch: b, cache, trained } = options;
  const t = options.length ?? (readsText(base) ? undefined : 1);
  if (b === undefined || t === undefined) {
    throw new ValueError("TRACE_OPTION", "traceModel needs the batch and the length of its rows.");
  }
  const hasDecoder = writtenSequence(base) === "decoderTokens";
  const { decoderLength = taskFor(base).decoderReads === "inputIds" ? t : 1, virtual } = options;
  const atStart = !cache || cache.first;
  const rows = t + (virtual?.place === "embeddings" && atStart ? virtual.count : 0);
  const graph = createGraph();
  const ints = (name: string, shape: readonly number[]) =>
    input(graph, name, { shape, dtype: "i32" });
  const pass = createForwardPass(graph, base, {
    adaptation: observed(
      model.type === "peft" ? adaptationOf(model, options) : undefined,
      options.observe,
    ),
    trained: trained && ((name) => trained(graph, name)),
    seed: options.dropout ? ints("seed", [1]) : undefined,
    firstRow: options.dropout ? ints("firstRow", [1]) : undefined,
    querySegments: ints("querySegments", [b, rows]),
    keySegments: ints("keySegments", [b, hasDecoder ? rows : cache?.capacity ?? rows]),
    decoder: hasDecoder
      ? {
        querySegments: constant(graph, 1, { shape: [b, decoderLength], dtype: "i32" }),
        keySegments: ints("decoderAttentionMask", [b, cache?.capacity ?? decoderLength]),
      }
      : undefined,
    offset: ints("offset", [1]),
    noise: options.noise,
    axes: options.axes,
    logitRows: options.logitRows === undefined
      ? undefined
      : ints("logitRows", [b, options.logitRows]),
    cache,
  });
  const values = runModel(pass, {
    ids: ints("ids", [b, t]),
    positions: ints("positions", [b, rows]),
    decoderIds: hasDecoder ? ints("decoderInputIds", [b, decoderLength]) : undefined,
  });
  const outputs: Record<string, Value> = { ...(options.outputs?.(pass, values) ?? values) };
  const updates: Record<string, string> = {};
  const states = Object.entries(options.updates?.() ?? {});
  for (const [state, value] of [...pass.cacheUpdates, ...states]) {
    outputs[`next.${state}`] = value;
    updates[state] = `next.${state}`;
  }
  return { program: programOf(outputs, updates), bindings: Object.fromEntries(pass.bindings) };
}

/** How adapters take part, where there are any, and somebody is told of each site. */
function observed(
  own: Adaptation | undefined,
  observe: TraceOptions["observe"],
): Adaptation | undefined {
  return observe
    ? {
      ...own,
      site(pass, site, x) {
        const y = own ? own.site(pass, site, x) : pass.base(site, x);
        observe(site, x, y);
        return y;
      },
    }
    : own;
}

/**
 * What a run of a traced model needs beside its bindings, all row-major and of the traced size. N is
 * the number of virtual tokens among the embedded ones.
 */
export interface RunInputs {
  /** Token ids [B, T]. */
  readonly ids: Int32Array;
  /** Positions [B, N+T]. */
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
  /** Number of the first row where the batch is a part of a larger one, for dropout; 0 by default. */
  readonly firstRow?: number;
  /** Other parts of the batch by name, such as those that the architecture asks for. */
  readonly parts?: Readonly<Record<string, Tensor>>;
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
    shape: [b, positions.length / b],
    length: options.sequenceLength ?? offset + t,
  };
  const rows = (data: Int32Array) => tensor(data, { shape: [b, data.length / b] });
  const all: Record<string, Tensor> = {
    ids: rows(ids),
    positions: rows(positions),
    querySegments: rows(options.querySegments ?? new Int32Array(positions.length).fill(1)),
    keySegments: rows(options.keySegments),
    offset: tensor(Int32Array.of(offset)),
    ...(options.logitRows && { logitRows: rows(options.logitRows) }),
    ...(options.rowAdapters && { [ROW_ADAPTERS]: tensor(options.rowAdapters) }),
    seed: tensor(Int32Array.of(options.seed ?? 0)),
    firstRow: tensor(Int32Array.of(options.firstRow ?? 0)),
    ...base.architecture.hostInputs?.(base.config, host),
    ...options.parts,
  };
  return Object.fromEntries(Object.entries(all).filter(([name]) => program.inputs.has(name)));
}
