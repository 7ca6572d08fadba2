/**
 * The covariance of what goes into the modules of a model, measured over batches.
 *
 * @module
 */
import { ValueError } from "../../errors.ts";
import { abs, add, div, equal } from "../../ops/elementwise.ts";
import { cast } from "../../ops/cast.ts";
import { matmul } from "../../ops/matmul.ts";
import { reduceMax } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import { select } from "../../ops/select.ts";
import type { Value } from "../../ops/value.ts";
import { castTensor } from "../../tensor/convert.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { AnyModel } from "../peft-model.ts";
import { observeModel, type ObserveOptions, type Reduction } from "../calibrate/observe.ts";

/** The type that numbers are rounded to, as PEFT does where a model computes in it. */
type Precision = "f32" | "f16" | "bf16";

/** Sums that stay on the device until they are read. */
export interface Covariances extends Disposable {
  /**
   * Covariances [in, in] by module path; modules with the same input share one. Each is read from
   * the device when its data is asked for.
   */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/**
 * Runs a model over batches and adds up XᵀX of the inputs X [T, in] of modules, each row's divided by
 * its largest element as PEFT's CorDA does; the mean over rows is the covariance.
 *
 * @param model The model, with its active adapters if it has any.
 * @param options Paths of linear layers, the batches, and how numbers are rounded.
 * @returns The covariances, to be disposed of when they have been read.
 * @throws {ValueError} where there is no batch, and where inputs are NaN, infinite or zero.
 */
export async function measureCovariances(
  model: AnyModel,
  options: ObserveOptions & { readonly precision: Precision },
): Promise<Covariances> {
  const { precision } = options;
  const observed = await observeModel(model, { ...options, reduction: covariance(precision) });
  const tensors = new Map<string, Tensor>();
  for (const { paths, runs, kept } of observed.groups) {
    const data = async () =>
      (await kept.data() as Float32Array).map((x) => x / (observed.rows * runs));
    const mean = { ...kept, data };
    const found = precision === "f32" ? mean : castTensor(mean, precision);
    for (const path of paths) tensors.set(path, found);
  }
  return { tensors, [Symbol.dispose]: () => observed[Symbol.dispose]() };
}

/** XᵀX of inputs with padding at zero, each row divided by the magnitude of its largest element. */
function covariance(precision: Precision): Reduction {
  const rounded = (x: Value) => precision === "f32" ? x : cast(cast(x, precision), "f32");
  return {
    of: "input",
    shape: (features) => [features, features],
    add(kept, x, mask) {
      const padding = equal(reshape(mask, [...mask.shape, 1]), 0);
      const values = rounded(x);
      const peak = abs(
        reduceMax(select(padding, LOWEST, values), { axes: [1, 2], keepDims: true }),
      );
      const normal = rounded(div(select(padding, 0, values), peak));
      const flat = reshape(normal, [-1, x.shape[x.shape.length - 1]]);
      const product = rounded(matmul(flat, flat, { transposeA: true }));
      return { kept: rounded(add(kept, product)), rows: peak };
    },
    check(peak, { path, row, batch }) {
      if (Number.isFinite(peak) && peak > 0) return;
      throw new ValueError(
        "CALIBRATION_INPUT",
        `Invalid value found in what goes into ${path} at row ${row} of batch ${batch}: its largest element is ${peak}. Check the batches, and the weights of the model.`,
        { path, batch, row, peak },
      );
    },
  };
}

/** What nothing is below, as the largest element of a row without tokens. */
const LOWEST = -3.4e38;
