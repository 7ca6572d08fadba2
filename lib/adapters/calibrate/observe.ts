/**
 * What goes through the modules of a model, reduced on its device over batches.
 *
 * @module
 */
import type { Executable, State } from "../../device/device.ts";
import { UnsupportedError, ValueError } from "../../errors.ts";
import { writtenSequence } from "../../model/model-graph.ts";
import { concat } from "../../ops/concat.ts";
import { input } from "../../ops/input.ts";
import { reshape } from "../../ops/reshape.ts";
import type { Graph, Value } from "../../ops/value.ts";
import { type FlatMatrix, flatMatrix } from "../../methods/linalg.ts";
import { BATCHES, checkValue } from "../../options.ts";
import type { Program } from "../../program/program.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import {
  batchInputs,
  batchKey,
  type ForwardInputs,
  prepareBatch,
  type PreparedBatch,
  traceShape,
} from "../batch.ts";
import { type AnyModel, baseOf } from "../peft-model.ts";
import { type TracedModel, traceModel } from "../trace-model.ts";

/**
 * Rows that a model is run on to see what goes into its modules. Padding does not count, and labels,
 * which batches for training have, are of no effect.
 */
export type CalibrationBatch = Omit<ForwardInputs, "adapterNames">;

/** Batches, in memory or as they come. */
export type CalibrationBatches = Iterable<CalibrationBatch> | AsyncIterable<CalibrationBatch>;

/** What becomes of the values of a module. */
export interface Reduction {
  /** Which values: what goes into the module, or what comes out of it. */
  readonly of: "input" | "output";
  /** Shape of what is kept, in f32 and zero at first, of values with so many features. */
  shape(features: number): readonly number[];
  /**
   * What is kept once it has seen one more value [B, T, D], where `mask` [B, T] is 0 at padding; and
   * a number for each row [B], which `check` gets.
   */
  add(kept: Value, x: Value, mask: Value): { readonly kept: Value; readonly rows: Value };
  /** Refuses the number of a row; rows without a token are not looked at. */
  check(
    found: number,
    at: { readonly path: string; readonly row: number; readonly batch: number },
  ): void;
}

/** What is observed, and on what. */
export interface ObserveOptions {
  /** Paths of modules. */
  readonly paths: readonly string[];
  /** What the model is run on. */
  readonly batches: CalibrationBatches;
  /** Is told how many batches are done. */
  readonly onBatch?: (batches: number) => void;
  /** Stops between batches. */
  readonly signal?: AbortSignal;
}

/** What was kept, on the device until it is disposed of. */
export interface Observed extends Disposable {
  /** Modules that all have the same values, how often they run in a pass, and what was kept. */
  readonly groups: readonly (Observation & { readonly kept: Tensor })[];
  /** Number of rows that were seen. */
  readonly rows: number;
}

/** Modules that all have the same values. */
export interface Observation {
  readonly paths: readonly string[];
  readonly runs: number;
}

/**
 * Runs a model over batches and reduces what goes into modules, or comes out of them.
 *
 * @param model The model, with its active adapters if it has any.
 * @param options The modules, the batches, and what becomes of the values.
 * @throws {ValueError} where there is no batch, and what the reduction's check throws.
 * @throws {UnsupportedError} for a module that no run uses, and for a model with a decoder beside an
 * encoder.
 */
export async function observeModel(
  model: AnyModel,
  options: ObserveOptions & { readonly reduction: Reduction },
): Promise<Observed> {
  const { device } = baseOf(model);
  const { reduction } = options;
  let state: State | undefined, groups: readonly Observation[] = [];
  let rows = 0, count = 0;
  try {
    for await (const pass of passes(model, options, reducing(reduction))) {
      groups = pass.groups;
      state ??= device.createState(
        Object.fromEntries(
          groups.map((group) => [stateOf(group), pass.program.inputs.get(stateOf(group))!]),
        ),
      );
      const { found } = await pass.run({ state, read: ["found"] });
      const tokens = tokensOf(pass.prepared);
      const seen = groups.flatMap(({ paths, runs }) => Array<string>(runs).fill(paths[0]));
      (await found.data() as Float32Array).forEach((value, i) => {
        const row = i % tokens.length, path = seen[Math.floor(i / tokens.length)];
        if (tokens[row] > 0) reduction.check(value, { path, row, batch: count });
      });
      rows += tokens.filter((n) => n > 0).length;
      count++;
      options.onBatch?.(count);
    }
    if (rows === 0) throw nothingSeen(count);
  } catch (error) {
    state?.[Symbol.dispose]();
    throw error;
  }
  const sums = state!;
  return {
    rows,
    groups: groups.map((group) => ({
      ...group,
      kept: {
        dtype: "f32",
        shape: sums.specs[stateOf(group)].shape,
        where: "device",
        data: async () => await (await sums.read(stateOf(group))).data(),
      },
    })),
    [Symbol.dispose]: () => sums[Symbol.dispose](),
  };
}

/** The error for batches without a token. */
export function nothingSeen(batches: number): ValueError {
  return new ValueError(
    "CALIBRATION_BATCHES",
    `There is nothing to measure in ${batches} batches: at least one row with a token is needed.`,
  );
}

/** What goes into modules in one pass. */
export interface InputsSeen {
  /** The batch as it was given. */
  readonly given: CalibrationBatch;
  /** For each token of the batch whether it is none of the padding, row by row. */
  readonly tokens: Int32Array;
  /** Modules that all have the same inputs. */
  readonly groups: readonly Observation[];
  /** Inputs of some groups, of each a matrix [rows, features] for each time that it runs. */
  read(groups: readonly Observation[]): Promise<readonly (readonly FlatMatrix[])[]>;
}

/**
 * Runs a model over batches and tells what goes into modules, batch by batch.
 *
 * @param model The model, with its active adapters if it has any.
 * @param options The modules and the batches.
 * @throws as {@link observeModel}.
 */
export async function* inputsOf(
  model: AnyModel,
  options: ObserveOptions,
): AsyncGenerator<InputsSeen> {
  const collecting: Collector = {
    of: "input",
    collect: (groups) => ({
      outputs: Object.fromEntries(
        groups.flatMap(({ values, ...group }) =>
          values.map((x, run) => [`${stateOf(group)}.${run}`, x])
        ),
      ),
    }),
  };
  let count = 0;
  for await (const pass of passes(model, options, collecting)) {
    const { given, groups, prepared: { run: { keySegments } } } = pass;
    yield {
      given,
      groups,
      tokens: keySegments,
      async read(groups) {
        const names = groups.map((group) =>
          Array.from({ length: group.runs }, (_, run) => `${stateOf(group)}.${run}`)
        );
        const found = await pass.run({ read: names.flat() });
        const matrix = async (name: string) => {
          const data = await toFloat32(found[name]), columns = found[name].shape.at(-1)!;
          return flatMatrix(data, { rows: data.length / columns, columns });
        };
        return await Promise.all(names.map((own) => Promise.all(own.map(matrix))));
      },
    };
    count++;
    options.onBatch?.(count);
  }
}

/** What a pass over a model is traced for. */
interface Collector {
  /** Which values of modules. */
  readonly of: "input" | "output";
  /** Outputs of the program, and states that it replaces, of groups with their values. */
  collect(
    groups: readonly (Observation & { readonly values: readonly Value[] })[],
    batch: { readonly graph: Graph; readonly rows: number; readonly mask: Value },
  ): {
    readonly outputs: Readonly<Record<string, Value>>;
    readonly updates?: Readonly<Record<string, Value>>;
  };
}

interface Pass {
  readonly given: CalibrationBatch;
  readonly prepared: PreparedBatch;
  readonly groups: readonly Observation[];
  readonly program: Program;
  run(options: Parameters<Executable["run"]>[1]): Promise<Readonly<Record<string, Tensor>>>;
}

/** Compiles a model once for each size of batch, and gives what runs it on each batch. */
async function* passes(
  model: AnyModel,
  { paths, batches, signal }: ObserveOptions,
  collector: Collector,
): AsyncGenerator<Pass> {
  const { device } = baseOf(model);
  checkValue(batches, BATCHES, { code: "CALIBRATION_BATCHES", of: "batches" });
  const compiled = new Map<string, Traced & { readonly executable: Executable }>();
  for await (const given of batches) {
    signal?.throwIfAborted();
    const prepared = await prepareBatch(model, given, {
      code: "CALIBRATION_BATCHES",
      of: "A batch for calibration",
    });
    const key = batchKey(prepared);
    let known = compiled.get(key);
    if (!known) {
      const traced = traceObserved(model, { paths, prepared, collector });
      known = { ...traced, executable: await device.compile(traced.program) };
      compiled.set(key, known);
    }
    const { executable: { program, run }, bindings, groups } = known;
    const inputs = { ...bindings, ...batchInputs(model, prepared, { program }) };
    yield { given, prepared, groups, program, run: (options) => run(inputs, options) };
  }
}

/** Name of the state that holds what is kept. */
function stateOf({ paths }: Observation): string {
  return `observed.${paths[0]}`;
}

/** Keeps what a reduction makes of values. */
function reducing(reduction: Reduction): Collector {
  return {
    of: reduction.of,
    collect(groups, { graph, rows: batch, mask }) {
      const found: Value[] = [], updates: Record<string, Value> = {};
      for (const group of groups) {
        const kept = input(graph, stateOf(group), {
          shape: reduction.shape(group.values[0].shape.at(-1)!),
          dtype: "f32",
          role: "state",
        });
        updates[stateOf(group)] = group.values.reduce((before, x) => {
          const { kept, rows } = reduction.add(before, x, mask);
          found.push(reshape(rows, [1, batch]));
          return kept;
        }, kept);
      }
      return { outputs: { found: concat(found, { axis: 0 }) }, updates };
    },
  };
}

interface Traced extends TracedModel {
  readonly groups: readonly Observation[];
}

/** The model's program up to the last module that counts. */
function traceObserved(
  model: AnyModel,
  options: {
    readonly paths: readonly string[];
    readonly prepared: PreparedBatch;
    readonly collector: Collector;
  },
): Traced {
  const { paths, prepared, collector } = options;
  const base = baseOf(model);
  if (writtenSequence(base) === "decoderTokens") {
    throw new UnsupportedError(
      "CALIBRATION_MODEL",
      `A ${base.architecture.name} model has a decoder beside an encoder, with rows of another length; nothing can be measured there yet.`,
    );
  }
  const seen = new Map(paths.map((path) => [path, [] as Value[]]));
  const groups = new Map<
    string,
    { readonly paths: string[]; readonly runs: number; readonly values: readonly Value[] }
  >();
  let updates: Readonly<Record<string, Value>> | undefined;
  const traced = traceModel(model, {
    ...traceShape(prepared),
    observe: ({ path }, x, y) => seen.get(path)?.push(collector.of === "input" ? x : y),
    updates: () => updates ?? {},
    outputs({ graph }) {
      const { batch: rows, run: { keySegments } } = prepared;
      const shape = [rows, keySegments.length / rows];
      const mask = input(graph, "keySegments", { shape, dtype: "i32" });
      for (const [path, values] of seen) {
        if (values.length === 0) throw notRun(path);
        const key = values.map(({ id }) => id).join();
        const group = groups.get(key) ?? { paths: [], runs: values.length, values };
        group.paths.push(path);
        groups.set(key, group);
      }
      const made = collector.collect([...groups.values()], { graph, rows, mask });
      updates = made.updates;
      return made.outputs;
    },
  });
  return { ...traced, groups: [...groups.values()].map(({ paths, runs }) => ({ paths, runs })) };
}

function notRun(path: string): UnsupportedError {
  return new UnsupportedError(
    "CALIBRATION_SITE",
    `A run of the model does not use ${path}, so that nothing can be measured there. Take it out of the targets.`,
    { path },
  );
}

/** Number of tokens of each row. */
function tokensOf({ batch, run: { keySegments } }: PreparedBatch): readonly number[] {
  const length = keySegments.length / batch;
  return Array.from(
    { length: batch },
    (_, i) => keySegments.subarray(i * length, (i + 1) * length).reduce((n, x) => n + x, 0),
  );
}
