/**
 * Matrices that are zero but for a few places.
 *
 * @module
 */
import { add, mul } from "../ops/elementwise.ts";
import { scatterAdd } from "../ops/gather.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import type { PeftConfig } from "./config.ts";
import type { SiteTrace } from "./method.ts";
import type { DeltaRule } from "./site-rule.ts";

/** Values [n], and where they are: rows, then columns, [2, n] in i32. */
export interface Sparse {
  readonly values: Value;
  readonly places: Value;
  /** Whether values can share a place, and are added up there. */
  readonly repeated?: boolean;
}

/** Numbers of elements of a matrix as rows, then columns: [2, n]. */
export function placesTensor(elements: Int32Array, columns: number): Tensor {
  const places = new Int32Array(2 * elements.length);
  elements.forEach((element, i) => {
    places[i] = Math.floor(element / columns);
    places[elements.length + i] = element % columns;
  });
  return tensor(places, { shape: [2, elements.length] });
}

/** The rows or the columns [n] of places [2, n]. */
export function placesAlong(places: Value, axis: 0 | 1): Value {
  return reshape(sliceAxis(places, { axis: 0, start: axis, size: 1 }), [-1]);
}

/** A matrix of zeros with some values. */
export function scattered({ values, places, repeated }: Sparse, shape: readonly number[]): Value {
  const ids = add(mul(placesAlong(places, 0), shape[1]), placesAlong(places, 1));
  const options = { rows: shape[0] * shape[1], unique: !repeated };
  return reshape(scatterAdd(reshape(values, [-1, 1]), ids, options), shape);
}

/** Adds a few values to the weight [out, in] of a linear layer or a Conv1D. */
export function sparseRule<C extends PeftConfig>(
  sparse: (trace: SiteTrace<C>) => Sparse,
): DeltaRule<C> {
  return {
    delta(trace) {
      const { kind, outFeatures, inFeatures } = trace.site;
      const delta = scattered(sparse(trace), [outFeatures, inFeatures]);
      return kind === "conv1d" ? transpose(delta) : delta;
    },
  };
}
