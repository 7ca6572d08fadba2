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
import type { Value } from "../../ops/value.ts";
import { BATCHES, checkValue } from "../../options.ts";
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

interface Observation {
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
  const { batches, reduction, onBatch, signal } = options;
  checkValue(batches, BATCHES, { code: "CALIBRATION_BATCHES", of: "batches" });
  const compiled = new Map<string, Traced & { readonly executable: Executable }>();
  let state: State | undefined, groups: readonly Observation[] = [];
  let rows = 0, count = 0;
  try {
    for await (const batch of batches) {
      signal?.throwIfAborted();
      const prepared = await prepareBatch(model, batch, {
        code: "CALIBRATION_BATCHES",
        of: "A batch for calibration",
      });
      const key = batchKey(prepared);
      let known = compiled.get(key);
      if (!known) {
        const traced = traceObserved(model, { ...options, prepared });
        known = { ...traced, executable: await device.compile(traced.program) };
        compiled.set(key, known);
      }
      const { executable: { program, run }, bindings } = known;
      groups = known.groups;
      state ??= device.createState(
        Object.fromEntries(
          groups.map((group) => [stateOf(group), program.inputs.get(stateOf(group))!]),
        ),
      );
      const { found } = await run(
        { ...bindings, ...batchInputs(model, prepared, { program }) },
        { state, read: ["found"] },
      );
      const tokens = tokensOf(prepared);
      const seen = groups.flatMap(({ paths, runs }) => Array<string>(runs).fill(paths[0]));
      (await found.data() as Float32Array).forEach((value, i) => {
        const row = i % tokens.length, path = seen[Math.floor(i / tokens.length)];
        if (tokens[row] > 0) reduction.check(value, { path, row, batch: count });
      });
      rows += tokens.filter((n) => n > 0).length;
      onBatch?.(++count);
    }
    if (rows === 0) {
      throw new ValueError(
        "CALIBRATION_BATCHES",
        `There is nothing to measure in ${count} batches: at least one row with a token is needed.`,
      );
    }
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

/** Name of the state that holds what is kept. */
function stateOf({ paths }: Observation): string {
  return `observed.${paths[0]}`;
}

interface Traced extends TracedModel {
  readonly groups: readonly Observation[];
}

/** The model's program up to the last module that counts, which updates what is kept. */
function traceObserved(
  model: AnyModel,
  options: ObserveOptions & { readonly reduction: Reduction; readonly prepared: PreparedBatch },
): Traced {
  const { paths, reduction, prepared } = options;
  const base = baseOf(model);
  if (writtenSequence(base) === "decoderTokens") {
    throw new UnsupportedError(
      "CALIBRATION_MODEL",
      `A ${base.architecture.name} model has a decoder beside an encoder, with rows of another length; nothing can be measured there yet.`,
    );
  }
  const seen = new Map(paths.map((path) => [path, [] as Value[]]));
  const groups = new Map<string, { readonly paths: string[]; readonly runs: number }>();
  const updates: Record<string, Value> = {};
  const traced = traceModel(model, {
    ...traceShape(prepared),
    observe: ({ path }, x, y) => seen.get(path)?.push(reduction.of === "input" ? x : y),
    updates: () => updates,
    outputs({ graph }) {
      const { batch, run: { keySegments } } = prepared;
      const shape = [batch, keySegments.length / batch];
      const mask = input(graph, "keySegments", { shape, dtype: "i32" });
      const found: Value[] = [];
      for (const [path, values] of seen) {
        if (values.length === 0) throw notRun(path);
        const key = values.map(({ id }) => id).join();
        const group = groups.get(key) ?? { paths: [], runs: values.length };
        group.paths.push(path);
        if (groups.has(key)) continue;
        groups.set(key, group);
        const kept = input(graph, stateOf(group), {
          shape: reduction.shape(values[0].shape.at(-1)!),
          dtype: "f32",
          role: "state",
        });
        updates[stateOf(group)] = values.reduce((before, x) => {
          const { kept, rows } = reduction.add(before, x, mask);
          found.push(reshape(rows, [1, batch]));
          return kept;
        }, kept);
      }
      return { found: concat(found, { axis: 0 }) };
    },
  });
  return { ...traced, groups: [...groups.values()] };
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
