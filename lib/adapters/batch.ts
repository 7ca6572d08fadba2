/**
 * The one room where batches are prepared: from what a caller gives to what programs take, for
 * `forward`, training, evaluation and calibration.
 *
 * @module
 */
import { ShapeError, UnsupportedError, ValueError } from "../errors.ts";
import { isObject } from "../io/json.ts";
import { type ModelGraph, writtenSequence } from "../model/model-graph.ts";
import {
  ATTENTION_MASK,
  type BatchInput,
  DECODER_ATTENTION_MASK,
  DECODER_INPUT_IDS,
  INPUT_IDS,
  POSITION_IDS,
  SEGMENTS,
  TEXT_INPUTS,
} from "../model/batch-input.ts";
import { input } from "../ops/input.ts";
import type { Graph } from "../ops/value.ts";
import { checkOptions, show } from "../options.ts";
import type { Program } from "../program/program.ts";
import type { HostPart, Objective, Targets, Values } from "../tasks/objective.ts";
import { taskFor } from "../tasks/mod.ts";
import { shiftRight } from "../tasks/shift-right.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { type MixedBatch, mixedBatch, mixedKey } from "./mixed-batch.ts";
import { type Adapter, type AnyModel, baseOf, takingPart } from "./peft-model.ts";
import { checkIds, checkNeeded, checkPositions, readPart, type TokenBatch } from "./token-batch.ts";
import { type RunInputs, runInputs, type TraceOptions, virtualRows } from "./trace-model.ts";

/** What {@link forward} takes. Which of it a model takes is its architecture's and its task's. */
export interface ForwardInputs {
  /** Token ids [B, T], each in [0, vocabulary size). */
  readonly inputIds?: TokenBatch;
  /** 1 for tokens, 0 for padding on either side [B, T]; all ones by default. */
  readonly attentionMask?: TokenBatch;
  /**
   * Position of each token [B, T]; 0, 1, 2 … by default, whatever the mask but for families that
   * count otherwise, as in transformers.
   * Virtual tokens of an adapter come before them.
   */
  readonly positionIds?: TokenBatch;
  /**
   * Images [B, C, H, W], channel by channel, as an image processor gives them; in the size that the
   * config says.
   */
  readonly pixelValues?: Tensor;
  /** Kind of each token [B, T], such as which of two texts it is of. */
  readonly tokenTypeIds?: TokenBatch;
  /**
   * Token ids of the decoder [B, U]; by default the labels, for classes and answers the token ids, one
   * to the right behind the config's `decoder_start_token_id`, or what stands for it in the family.
   */
  readonly decoderInputIds?: TokenBatch;
  /** 1 for tokens of the decoder, 0 for padding [B, U]; all ones by default. */
  readonly decoderAttentionMask?: TokenBatch;
  /** What to predict; its shape and meaning are those of the model's task. Gives `loss`. */
  readonly labels?: TokenBatch | readonly number[];
  /**
   * Index of the answer's first token in each row [B]; beyond the row where there is none, which
   * does not count. Both give `loss`.
   */
  readonly startPositions?: readonly number[] | Tensor;
  /**
   * Index of the answer's last token in each row [B]; beyond the row where there is none, which does
   * not count. Both give `loss`.
   */
  readonly endPositions?: readonly number[] | Tensor;
  /** Number of each row's task [B], where an active adapter routes by it. */
  readonly taskIds?: readonly number[] | Tensor;
  /**
   * What adapters draw at random in training, by the names that their methods give it, such as a module
   * path, in place of draws of their own; the batch then runs as in training, without dropout.
   */
  readonly noise?: Readonly<Record<string, Tensor>>;
  /**
   * The adapter of each row, active or not, `"__base__"` for none; without it all rows get the
   * active adapters.
   */
  readonly adapterNames?: readonly string[];
}

/** What {@link forward} takes for a model of one's own, by the names of its inputs. */
export type OwnInputs = Readonly<Record<string, Tensor>>;

/** What a batch is prepared for. */
export interface BatchOptions {
  /** What it is learned or measured for; the parts that it names are taken and not looked at by default. */
  readonly objective?: Objective;
  /** Whether labels are needed. */
  readonly learns?: boolean;
  /** Whether rows may hold several samples. */
  readonly packs?: boolean;
  /** Whether rows may choose their adapters. */
  readonly mixes?: boolean;
  /** The code of errors about parts that there are not, and what took the batch. */
  readonly code: string;
  /** What messages call the batch or the function that took it. */
  readonly of: string;
}

/** A batch, checked and filled in. */
export interface PreparedBatch extends Targets {
  /** Rows. */
  readonly batch: number;
  /** Tokens in a row; 1 where rows are images. */
  readonly length: number;
  /** Tokens in a row of the decoder, where there is one beside an encoder. */
  readonly decoderLength?: number;
  /** Sizes of all axes of its parts, by name. */
  readonly axes: Readonly<Record<string, number>>;
  /** Virtual tokens that adapters put before those of each row. */
  readonly virtual: NonNullable<TraceOptions["virtual"]>;
  /** What programs take of it, but for labels. */
  readonly run: RunInputs;
  /** Number of tokens that are not padding. */
  readonly tokens: number;
  /** Which adapters its rows get, where they choose. */
  readonly mixed?: MixedBatch;
  /** Whether it brings what adapters draw in training. */
  readonly noise: boolean;
}

/** The parts of a batch that a model takes, labels not included. */
export function modelInputs(model: ModelGraph): readonly BatchInput[] {
  const { architecture, config } = model;
  return [
    ...architecture.reads?.(config) ?? TEXT_INPUTS,
    ...architecture.inputs?.(config) ?? [],
    ...writtenSequence(model) === "decoderTokens"
      ? [DECODER_INPUT_IDS, DECODER_ATTENTION_MASK]
      : [],
  ];
}

/** The parts of a batch that adapters take: those that rows name, else the active ones. */
export function methodInputs(model: AnyModel, adapterNames?: unknown): readonly BatchInput[] {
  return methodsOf(model, adapterNames)
    .flatMap(({ method, config }) => method.pass?.inputs?.(config) ?? []);
}

/**
 * The parts that adapters take of prompts, which have rows but no tokens yet.
 *
 * @param given What the caller gave of them.
 * @param rows Number of prompts.
 * @throws {ValueError} `BATCH_MISSING`, `BATCH_VALUE`, or for one that no active adapter takes;
 * {ShapeError} `BATCH_SHAPE`.
 */
export async function promptParts(
  model: AnyModel,
  given: Readonly<Record<string, unknown>>,
  options: {
    readonly rows: number;
    readonly adapterNames?: readonly string[];
    readonly code: string;
    readonly of: string;
  },
): Promise<Readonly<Record<string, Tensor>>> {
  const specs = methodInputs(model, options.adapterNames), parts: Record<string, Tensor> = {};
  checkOptions(given, Object.fromEntries(specs.map(({ name }) => [name, null])), options);
  const sizes = new Map([["batch", options.rows]]);
  for (const spec of specs) {
    const { name } = spec;
    const part = given[name] === undefined
      ? filled(spec, sizes)
      : await readPart(given[name], spec, sizes);
    if (!part) throw missing(spec, options.of);
    parts[name] = tensor(part.data, { shape: part.shape });
  }
  return parts;
}

/** What adapters take of the token ids of rows, padded to one length. */
export function rowParts(
  model: AnyModel,
  rows: readonly Int32Array[],
  adapterNames?: unknown,
): Readonly<Record<string, Tensor>> {
  const rules = methodsOf(model, adapterNames)
    .flatMap(({ method, config }) => Object.entries(method.rowInputs?.(config) ?? {}));
  return Object.fromEntries(
    rules.map(([name, of]) => [name, tensor(Int32Array.from(rows, (ids) => of(ids)))]),
  );
}

function missing({ name, doc }: BatchInput, of: string): ValueError {
  return new ValueError("BATCH_MISSING", `${of} needs ${name}: ${doc}`, { name });
}

/** The adapters that take part in a batch: those that rows name, else the active ones. */
function methodsOf(model: AnyModel, adapterNames: unknown): readonly Adapter[] {
  if (model.type !== "peft") return [];
  return Array.isArray(adapterNames)
    ? adapterNames.flatMap((name) => model.adapters.get(name) ?? [])
    : takingPart(model);
}

/** What a model is trained for where nothing else is said: its task. */
export function objectiveOf(model: AnyModel): Objective | undefined {
  return taskFor(baseOf(model)).objective ?? undefined;
}

/**
 * Checks a batch and fills in what it leaves out.
 *
 * @throws {ValueError} for parts that the batch does not have, for those that are missing
 * (`BATCH_MISSING`, `LABELS_MISSING`) and for numbers out of range.
 * @throws {ShapeError} `BATCH_SHAPE` where parts differ in shape.
 * @throws {UnsupportedError} for segments where an adapter puts virtual tokens before each row.
 */
export async function prepareBatch(
  model: AnyModel,
  batchOrInputs: object,
  options: BatchOptions,
): Promise<PreparedBatch> {
  const given = batchOrInputs as Readonly<Record<string, unknown>>;
  const { objective, learns = false } = options;
  const base = baseOf(model), { config } = base;
  // Before it is known to be an object, nothing in it can be looked at.
  const own = (objective ?? objectiveOf(model))?.inputs(config, given ?? {}) ?? [];
  const specs = new Map(
    [
      ...modelInputs(base),
      ...own,
      ...methodInputs(model, given?.adapterNames),
      ...options.packs ? [SEGMENTS] : [],
    ].map((spec) => [spec.name, spec]),
  );
  const names = [
    ...specs.keys(),
    ...model.type === "peft" ? ["noise"] : [],
    ...options.mixes ? ["adapterNames"] : [],
  ];
  checkOptions(given, Object.fromEntries(names.map((name) => [name, null])), options);

  const parts: Record<string, HostPart> = {}, sizes = new Map<string, number>();
  for (const [name, spec] of specs) {
    if (given[name] === undefined && name !== "inputIds") continue;
    if (!objective && own.includes(spec)) continue;
    parts[name] = await readPart(given[name], spec, sizes);
    if (spec.isToken) {
      checkIds(model, parts[name].data, { labels: spec.none !== undefined });
    }
  }
  const decodes = writtenSequence(base) === "decoderTokens";
  const read = parts[taskFor(base).decoderReads ?? ""];
  if (decodes && read && !parts.decoderInputIds) {
    const { data, shape } = shiftRight(read, base);
    parts.decoderInputIds = await readPart(tensor(data, { shape }), DECODER_INPUT_IDS, sizes);
  }
  const batch = sizes.get("batch"), length = sizes.get("tokens") ?? 1;
  if (batch === undefined) throw missing([...specs.values()][0], options.of);
  const ids = ints(parts.inputIds) ?? new Int32Array(batch * length);
  const packed = parts.segments !== undefined;
  const segments = ints(parts.segments ?? parts.attentionMask) ??
    new Int32Array(ids.length).fill(1);
  const mixed = mixedBatch(model, given.adapterNames as readonly string[] | undefined, batch);
  const images = sizes.get("images");
  if (mixed && images !== undefined && images !== batch) {
    throw new ShapeError(
      "BATCH_SHAPE",
      `adapterNames choose adapters by row, so that there must be as many images as rows of text; found ${images} and ${batch}.`,
    );
  }
  const virtual = virtualRows(model, { mixed: mixed?.names });
  if (packed && virtual.count) {
    throw new UnsupportedError(
      "PACKED_PREFIX",
      `A batch with segments packs several samples into a row, and the active adapter puts ${virtual.count} ` +
        "virtual tokens before each row, which only its first sample would see. Train without packing.",
    );
  }
  // Rows that are embedded are there for all that counts tokens; others are only counted.
  const embedded = virtual.place === "embeddings" ? virtual.count : 0;
  const rows = (data: HostPart["data"], fill: number) =>
    embedded ? behind(data, { length, count: embedded, fill }) : data;
  const uncounted = base.architecture.uncounted?.(config);
  const isCounted = uncounted === "padding"
    ? (i: number) => segments[i] !== 0
    // As transformers, which sees no ids behind virtual tokens.
    : (i: number) => embedded > 0 || ids[i] !== uncounted;
  const positions = rows(
    (ints(parts.positionIds) ?? countPositions(segments, { length, packed, isCounted }))
      .map((position) => position + virtual.count),
    0,
  ) as Int32Array<ArrayBuffer>;
  for (let i = 0; embedded && i < positions.length; i++) {
    const at = i % (embedded + length);
    if (at < embedded) positions[i] = at;
  }
  checkPositions(model, positions);
  const decoderLength = decodes ? sizes.get("decoderTokens") : undefined;
  if (decoderLength) checkPositions(model, Int32Array.of(decoderLength - 1));
  checkNeeded(model, ids, length);
  const targets = objective?.prepare({
    rows: batch,
    length,
    virtual: embedded,
    ids,
    segments,
    packed,
    parts,
    learns,
    config,
  }) ?? { count: 0 };

  const ignored = new Set(
    methodsOf(model, given.adapterNames).flatMap(({ method, config }) =>
      method.pass?.ignores?.(config) ?? []
    ),
  );
  const others: Record<string, Tensor> = {
    ...rowParts(
      model,
      Array.from({ length: batch }, (_, b) => ids.subarray(b * length, (b + 1) * length)),
      given.adapterNames,
    ),
  };
  if (packed && Object.keys(others).length) {
    throw new UnsupportedError(
      "PACKED_ROWS",
      "A batch with segments packs several samples into a row, and an active adapter looks for tokens in each row as a whole. Train without packing.",
    );
  }
  const noise = given.noise as ForwardInputs["noise"];
  if (noise !== undefined) checkNoise(noise, options);
  for (const [name, numbers] of Object.entries(noise ?? {})) others[`noise.${name}`] = numbers;
  for (const [name, spec] of specs) {
    if (KNOWN.has(name) || own.includes(spec) || name in others) continue;
    const part = ignored.has(name) ? filled(spec, sizes) : parts[name] ?? filled(spec, sizes);
    if (part && spec.axes[1] === "tokens") {
      const data = rows(part.data, spec.padding ?? 0);
      others[name] = tensor(data, { shape: [batch, data.length / batch] });
    } else if (part) others[name] = tensor(part.data, { shape: part.shape });
    else throw missing(spec, options.of);
  }
  return {
    labels: targets.labels,
    count: targets.count,
    batch,
    length,
    decoderLength,
    axes: Object.fromEntries(sizes),
    virtual,
    tokens: segments.reduce((n, s) => n + (s === 0 ? 0 : 1), 0),
    mixed,
    noise: noise !== undefined,
    run: {
      ids,
      positions,
      querySegments: packed ? segments : undefined,
      keySegments: rows(segments, 1) as Int32Array,
      rowAdapters: mixed?.rows,
      // As in transformers, which counts positions where they are given.
      sequenceLength: packed || parts.positionIds
        ? positions.reduce((most, position) => Math.max(most, position), 0) + 1
        : virtual.count + length,
      parts: others,
    },
  };
}

/** Rows with so many elements of one value before those of each. */
function behind(
  data: HostPart["data"],
  { length, count, fill }: {
    readonly length: number;
    readonly count: number;
    readonly fill: number;
  },
): HostPart["data"] {
  const n = data.length / length * (count + length);
  const all = (data instanceof Int32Array ? new Int32Array(n) : new Float32Array(n)).fill(fill);
  for (let row = 0; row < data.length / length; row++) {
    all.set(data.subarray(row * length, (row + 1) * length), row * (count + length) + count);
  }
  return all;
}

/** Parts that reach programs in a form of their own. */
const KNOWN: ReadonlySet<string> = new Set(
  [INPUT_IDS, ATTENTION_MASK, POSITION_IDS, SEGMENTS].map(({ name }) => name),
);

function ints(part: HostPart | undefined): Int32Array<ArrayBuffer> | undefined {
  return part?.data as Int32Array<ArrayBuffer> | undefined;
}

/** What stands for a part that was left out, where its size is known. */
function filled({ otherwise, axes, dtype }: BatchInput, sizes: ReadonlyMap<string, number>) {
  const shape = axes.map((axis) => typeof axis === "number" ? axis : sizes.get(axis));
  if (otherwise === undefined || !shape.every((size) => size !== undefined)) return undefined;
  const length = shape.reduce((n, size) => n * size, 1);
  const data = dtype === "i32" ? new Int32Array(length) : new Float32Array(length);
  return { data: data.fill(otherwise), shape };
}

function countPositions(
  segments: Int32Array,
  { length, packed, isCounted }: {
    readonly length: number;
    readonly packed: boolean;
    isCounted(index: number): boolean;
  },
): Int32Array<ArrayBuffer> {
  let next = 0;
  return new Int32Array(segments.length).map((_, i) => {
    if (i % length === 0 || (packed && segments[i] !== segments[i - 1])) next = 0;
    return isCounted(i) ? next++ : -1;
  });
}

/** What a model is traced with for a batch. */
export function traceShape(
  { mixed, batch, length, decoderLength, axes, virtual, noise }: BatchShape,
): TraceOptions {
  return { batch, length, decoderLength, axes, virtual, mixed: mixed?.names, noise };
}

/** What of a batch programs depend on. */
export type BatchShape =
  & Pick<PreparedBatch, "batch" | "length" | "labels">
  & Partial<Pick<PreparedBatch, "decoderLength" | "axes" | "virtual" | "mixed" | "noise">>;

/** What tells the programs of two prepared batches apart. */
export function batchKey(prepared: PreparedBatch): string {
  const { batch, length, labels, run: { parts }, mixed, noise } = prepared;
  const shapes = Object.entries({ ...labels, ...parts })
    .map(([name, { shape, dtype }]) => `${name} ${dtype} ${shape}`);
  return [batch, length, noise && "noise", ...shapes, mixedKey(mixed)].join(" ");
}

/** The labels of a batch as inputs of a program. */
export function labelValues(graph: Graph, { labels = {} }: Pick<Targets, "labels">): Values {
  return Object.fromEntries(
    Object.entries(labels).map(([name, { shape, dtype }]) => [
      name,
      input(graph, name, { shape, dtype: dtype as "i32" | "f32" }),
    ]),
  );
}

function checkNoise(noise: unknown, { code, of }: BatchOptions): void {
  const isTensor = (x: unknown) => isObject(x) && "shape" in x && "data" in x;
  if (isObject(noise) && Object.values(noise).every(isTensor)) return;
  throw new ValueError(code, `${of} needs noise as tensors by name; found ${show(noise)}.`);
}

/** Refuses noise that a program does not draw, and the lack of some that it does. */
function checkDraws(given: Readonly<Record<string, Tensor>>, { inputs }: Program): void {
  const drawn = (names: Iterable<string>) => [...names].filter((name) => name.startsWith("noise."));
  const wanted = drawn(inputs.keys()), found = drawn(Object.keys(given));
  const wrong = [...wanted, ...found].find((name) => !inputs.has(name) || !(name in given));
  if (!wrong) return;
  const list = wanted.map((name) => name.slice("noise.".length)).join(", ");
  throw new ValueError(
    "NOISE",
    `noise ${found.includes(wrong) ? "has" : "lacks"} ${
      JSON.stringify(wrong.slice("noise.".length))
    }; the active adapters draw ${list || "nothing"}.`,
    { wanted, found },
  );
}

/**
 * The data inputs of a program for a batch.
 *
 * @throws {ValueError} `NOISE` for other noise than the program draws.
 */
export function batchInputs(
  model: AnyModel,
  prepared: PreparedBatch,
  options: { readonly program: Program; readonly seed?: number },
): Record<string, Tensor> {
  const { batch, length, run, labels, noise } = prepared;
  if (noise) checkDraws(run.parts ?? {}, options.program);
  return runInputs(model, {
    ...options,
    batch,
    length,
    ...run,
    parts: { ...run.parts, ...labels },
  });
}
