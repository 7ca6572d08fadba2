/**
 * The covariance of what goes into the modules of a model, measured over batches.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../../errors.ts";
import type { Executable, State } from "../../device/device.ts";
import { createForwardPass } from "../../model/forward-pass.ts";
import { abs } from "../../ops/unary.ts";
import { add, div, equal } from "../../ops/binary.ts";
import { cast } from "../../ops/cast.ts";
import { concat } from "../../ops/concat.ts";
import { input } from "../../ops/input.ts";
import { matmul } from "../../ops/matmul.ts";
import { reduceMax } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import { select } from "../../ops/select.ts";
import { createGraph, type Value } from "../../ops/value.ts";
import { checkOptions, isIterable, type OptionRules, show } from "../../options.ts";
import { programOf } from "../../program/program.ts";
import { castTensor } from "../../tensor/convert.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { adaptationOf } from "../adaptation.ts";
import { type AnyModel, baseOf, virtualTokens } from "../peft-model.ts";
import { checkIds, checkPositions, partOf, toInts, type TokenBatch } from "../token-batch.ts";
import { runInputs, type TracedModel } from "../trace-model.ts";

/** Rows that a model is run on to see what goes into its modules. */
export interface CalibrationBatch {
  /** Token ids [B, T], each in [0, vocabulary size). */
  readonly inputIds: TokenBatch;
  /** 1 for tokens, 0 for padding [B, T], which does not count; all ones by default. */
  readonly attentionMask?: TokenBatch;
  /** Position of each token [B, T]; 0, 1, 2 … by default. */
  readonly positionIds?: TokenBatch;
  /** Of no effect; batches for training have them. */
  readonly labels?: unknown;
}

/** Batches, in memory or as they come. */
export type CalibrationBatches = Iterable<CalibrationBatch> | AsyncIterable<CalibrationBatch>;

const BATCH: OptionRules<CalibrationBatch> = {
  inputIds: null,
  attentionMask: null,
  positionIds: null,
  labels: null,
};

/** What is measured, and how. */
export interface CovarianceOptions {
  /** Module paths of linear layers. */
  readonly paths: readonly string[];
  /** What the model is run on. */
  readonly batches: CalibrationBatches;
  /** The type that numbers are rounded to, as PEFT does where a model computes in it. */
  readonly precision: "f32" | "f16" | "bf16";
  /** Is told how many batches are done. */
  readonly onBatch?: (batches: number) => void;
  /** Stops between batches. */
  readonly signal?: AbortSignal;
}

/** Sums that stay on the device until they are read. */
export interface Covariances extends Disposable {
  /**
   * Covariances [in, in] by module path; modules with the same input share one. Each is read from
   * the device when its data is asked for.
   */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Number of rows that they are the mean of. */
  readonly rows: number;
}

/**
 * Runs a model over batches and adds up XᵀX of the inputs X [T, in] of modules, each row's divided by
 * its largest element as PEFT's CorDA does; the mean over rows is the covariance.
 *
 * @param model The model, with its active adapters if it has any.
 * @param options The modules and the batches.
 * @returns The covariances, to be disposed of when they have been read.
 * @throws {ValueError} where there is no batch, and where inputs are NaN, infinite or zero.
 */
export async function measureCovariances(
  model: AnyModel,
  options: CovarianceOptions,
): Promise<Covariances> {
  const { device } = baseOf(model);
  const { batches, precision, onBatch, signal } = options;
  if (!isIterable(batches)) {
    throw new ValueError(
      "CALIBRATION_BATCHES",
      `batches must be a list of { inputIds }, or something else to go through; found ${
        show(batches)
      }.`,
    );
  }
  const compiled = new Map<string, Compiled>();
  let state: State | undefined;
  let first: Compiled | undefined;
  let rows = 0, count = 0;
  try {
    for await (const batch of batches) {
      signal?.throwIfAborted();
      const host = await hostBatch(model, batch);
      const key = host.shape.join();
      let known = compiled.get(key);
      if (!known) {
        const traced = traceCovariances(model, { ...options, shape: host.shape });
        known = { ...traced, executable: await device.compile(traced.program) };
        compiled.set(key, known);
      }
      const { executable, bindings, groups } = known;
      first ??= known;
      state ??= device.createState(
        Object.fromEntries(groups.map(({ name }) => [name, executable.program.inputs.get(name)!])),
      );
      const [b, t] = host.shape;
      const { peaks } = await executable.run({
        ...bindings,
        ...runInputs(model, {
          program: executable.program,
          batch: b,
          length: t,
          ids: host.ids,
          positions: host.positions,
          keySegments: host.mask,
          sequenceLength: virtualTokens(model) + t,
        }),
      }, { state, read: ["peaks"] });
      checkPeaks(await peaks.data() as Float32Array, { ...known, host, batch: count });
      rows += host.tokens.filter((n) => n > 0).length;
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
  const tensors = new Map<string, Tensor>();
  for (const { name, paths, runs } of first!.groups) {
    const { shape } = sums.specs[name];
    const mean: Tensor = {
      dtype: "f32",
      shape,
      where: "device",
      data: async () =>
        (await (await sums.read(name)).data() as Float32Array).map((x) => x / (rows * runs)),
    };
    const found = precision === "f32" ? mean : castTensor(mean, precision);
    for (const path of paths) tensors.set(path, found);
  }
  return { tensors, rows, [Symbol.dispose]: () => sums[Symbol.dispose]() };
}

/** Modules that all get the same input. */
interface InputGroup {
  /** The state that holds the sum. */
  readonly name: string;
  readonly paths: readonly string[];
  /** How often they run in one pass. */
  readonly runs: number;
}

interface TracedCovariances extends TracedModel {
  readonly groups: readonly InputGroup[];
  /** Which modules the rows of the output `peaks` belong to. */
  readonly peakPaths: readonly string[];
}

interface Compiled extends TracedCovariances {
  readonly executable: Executable;
}

/** The model's program up to the last module that counts, which updates the sums. */
function traceCovariances(
  model: AnyModel,
  options: CovarianceOptions & { readonly shape: readonly [number, number] },
): TracedCovariances {
  const { paths, precision, shape: [b, t] } = options;
  const base = baseOf(model);
  const graph = createGraph();
  const ints = (name: string, shape: readonly number[]) =>
    input(graph, name, { shape, dtype: "i32" });
  const wanted = new Set(paths);
  const seen = new Map<string, Value[]>();
  const own = model.type === "peft" ? adaptationOf(model) : undefined;
  const mask = ints("keySegments", [b, t]);
  const pass = createForwardPass(graph, base, {
    adaptation: {
      ...own,
      site(pass, site, x) {
        if (wanted.has(site.path)) seen.set(site.path, [...seen.get(site.path) ?? [], x]);
        return own ? own.site(pass, site, x) : pass.base(site, x);
      },
    },
    querySegments: ints("querySegments", [b, t]),
    keySegments: mask,
    offset: ints("offset", [1]),
  });
  base.architecture.forward(pass, {
    ids: ints("ids", [b, t]),
    positions: ints("positions", [b, t]),
  });
  const groups = new Map<string, { readonly xs: readonly Value[]; readonly paths: string[] }>();
  for (const path of paths) {
    const xs = seen.get(path);
    if (!xs) throw notRun(path);
    const key = xs.map(({ id }) => id).join();
    const group = groups.get(key);
    if (group) group.paths.push(path);
    else groups.set(key, { xs, paths: [path] });
  }
  const outputs: Record<string, Value> = {}, updates: Record<string, string> = {};
  const peaks: Value[] = [], peakPaths: string[] = [];
  const named = [...groups.values()].map(({ xs, paths }) => {
    const name = `covariance.${paths[0]}`;
    const width = xs[0].shape[xs[0].shape.length - 1];
    const old = input(graph, name, { shape: [width, width], dtype: "f32", role: "state" });
    const rounded = (x: Value) => precision === "f32" ? x : cast(cast(x, precision), "f32");
    outputs[`next.${name}`] = xs.reduce((sum, x) => {
      const { normal, peak } = normalized(x, { mask, rounded });
      peaks.push(reshape(peak, [1, b]));
      peakPaths.push(paths[0]);
      const flat = reshape(normal, [-1, width]);
      return rounded(add(sum, rounded(matmul(flat, flat, { transposeA: true }))));
    }, old);
    updates[name] = `next.${name}`;
    return { name, paths, runs: xs.length };
  });
  outputs.peaks = concat(peaks, { axis: 0 });
  return {
    program: programOf(outputs, updates),
    bindings: Object.fromEntries(pass.bindings),
    groups: named,
    peakPaths,
  };
}

/** Inputs [B, T, D] with padding at zero, each row divided by the magnitude of its largest element. */
function normalized(
  x: Value,
  options: { readonly mask: Value; readonly rounded: (x: Value) => Value },
): { readonly normal: Value; readonly peak: Value } {
  const { mask, rounded } = options;
  const padding = equal(reshape(mask, [...mask.shape, 1]), 0);
  const values = rounded(x);
  const peak = abs(
    reduceMax(select(padding, LOWEST, values), { axes: [1, 2], keepDims: true }),
  );
  return { normal: rounded(div(select(padding, 0, values), peak)), peak };
}

/** What nothing is below, as the largest element of a row without tokens. */
const LOWEST = -3.4e38;

function notRun(path: string): UnsupportedError {
  return new UnsupportedError(
    "CALIBRATION_SITE",
    `A run of the model does not use ${path}, so that nothing can be measured there. Take it out of the targets.`,
    { path },
  );
}

interface HostBatch {
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly mask: Int32Array;
  readonly shape: readonly [number, number];
  /** Number of tokens of each row. */
  readonly tokens: readonly number[];
}

async function hostBatch(model: AnyModel, batch: CalibrationBatch): Promise<HostBatch> {
  checkOptions(batch, BATCH, { code: "CALIBRATION_BATCHES", of: "A batch for calibration" });
  const { data: ids, shape } = await toInts("inputIds", batch.inputIds);
  const [b, t] = shape;
  checkIds(model, ids);
  const mask = await partOf("attentionMask", batch.attentionMask, { shape, from: 0, to: 1 }) ??
    new Int32Array(ids.length).fill(1);
  const own = await partOf("positionIds", batch.positionIds, { shape, from: 0 }) ??
    Int32Array.from(ids, (_, i) => i % t);
  const virtual = virtualTokens(model);
  const positions = own.map((position) => position + virtual);
  checkPositions(model, positions);
  const tokens = Array.from(
    { length: b },
    (_, i) => mask.subarray(i * t, (i + 1) * t).reduce((n, x) => n + x, 0),
  );
  return { ids, positions, mask, shape, tokens };
}

/** Refuses inputs that cannot be divided by their largest element. */
function checkPeaks(
  peaks: Float32Array,
  of: {
    readonly peakPaths: readonly string[];
    readonly host: HostBatch;
    readonly batch: number;
  },
): void {
  const { peakPaths, host: { shape: [b], tokens }, batch } = of;
  for (let i = 0; i < peaks.length; i++) {
    if (tokens[i % b] === 0 || (Number.isFinite(peaks[i]) && peaks[i] > 0)) continue;
    const path = peakPaths[Math.floor(i / b)];
    throw new ValueError(
      "CALIBRATION_INPUT",
      `Invalid value found in what goes into ${path} at row ${
        i % b
      } of batch ${batch}: its largest element is ${
        peaks[i]
      }. Check the batches, and the weights of the model.`,
      { path, batch, row: i % b, peak: peaks[i] },
    );
  }
}
